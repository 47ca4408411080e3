// A client with the package netstring: node netstring.cjs PORT MESSAGE..., each in hexadecimal.
// Prints every answer, and ends when the gateway does.
const { connect } = require('node:net');
const { nsLength, nsPayload, nsWrite, nsWriteLength } = require('netstring');

const [port, ...messages] = process.argv.slice(2);
const socket = connect({ port: Number(port), host: '127.0.0.1', allowHalfOpen: true });
for (const message of messages) {
  const payload = Buffer.from(message, 'hex');
  const frame = Buffer.alloc(nsWriteLength(payload.length));
  nsWrite(payload, 0, payload.length, frame, 0);
  socket.write(frame);
}
socket.end();

let kept = Buffer.alloc(0);
socket.on('data', (data) => {
  kept = Buffer.concat([kept, data]);
  let length;
  while ((length = nsLength(kept)) >= 0 && length <= kept.length) {
    console.log(nsPayload(kept).toString());
    kept = kept.subarray(length);
  }
});
