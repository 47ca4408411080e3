// A client with the package lumberjack-client: node lumberjack.cjs PORT COUNT [CA].
// It reads no acknowledgements: it is told to end when what it sent is stored.
const { readFileSync } = require('node:fs');
const LumberjackClient = require('lumberjack-client');

const [port, count, ca] = process.argv.slice(2);
const config = { host: 'localhost', port: Number(port) };
if (ca) {
  config.ca = readFileSync(ca);
}
const client = new LumberjackClient(config, Boolean(ca));
// Before it is connected: these become one window.
for (let n = 0; n < Number(count); n++) {
  client.log({ peer: 'node', n, message: 'käse, 奶酪' });
}
// And each of these is a window of its own.
const timer = setInterval(() => {
  if (client.connected) {
    clearInterval(timer);
    for (let n = Number(count); n < 2 * Number(count); n++) {
      client.log({ peer: 'node', n, message: 'x'.repeat(n) });
    }
  }
}, 10);
process.stdin.on('end', () => process.exit(0)).resume();
