// A client with @fluent-org/logger: node fluent.mjs JSON
// {port, options, tag, messages: [...]} sends these, each with a number, and ends.
// {port, options, tag, window} sends numbers until standard input ends, so many at a time.
// Prints "+NUMBER" for what was acknowledged and "-NUMBER WHY" for what was not.
import logger from '@fluent-org/logger';

const { port, options, tag, messages, window } = JSON.parse(process.argv[2]);
const client = new logger.FluentClient(tag, {
  ...options,
  socket: { host: '127.0.0.1', port, reconnect: { minDelay: 20, maxDelay: 200 }, ...options.socket },
});
client.socketOn('error', () => {});

const send = async (number, record) => {
  try {
    await client.emit(record, Date.now());
    console.log(`+${number}`);
    return true;
  } catch (error) {
    console.log(`-${number} ${error.message}`);
    return false;
  }
};

if (messages) {
  await Promise.all(messages.map((record, number) => send(number, record)));
} else {
  let stopped = false;
  process.stdin.on('end', () => { stopped = true; });
  process.stdin.resume();
  let next = 0;
  const one = async () => {
    while (!stopped) {
      const number = next++;
      if (!await send(number, { number })) {
        await new Promise((done) => setTimeout(done, 50));
      }
    }
  };
  await Promise.all(Array.from({ length: window }, one));
}
await client.shutdown();
