// A client with @endo/netstring: node endo.mjs PORT MESSAGE..., each in hexadecimal.
// Prints every answer, and ends when the gateway does.
import '@endo/init';
import { connect } from 'node:net';
import { makeNetstringReader, makeNetstringWriter } from '@endo/netstring';
import { makeNodeReader, makeNodeWriter } from '@endo/stream-node';

const [port, ...messages] = process.argv.slice(2);
const socket = connect({ port: Number(port), host: '127.0.0.1', allowHalfOpen: true });
const writer = makeNetstringWriter(makeNodeWriter(socket));
const send = async () => {
  for (const message of messages) {
    await writer.next(Buffer.from(message, 'hex'));
  }
  await writer.return();
};
const sent = send();
for await (const answer of makeNetstringReader(makeNodeReader(socket))) {
  console.log(Buffer.from(answer).toString());
}
await sent;
