// Stands where mount.nfs4 is: `stand-in.mjs SOCKET ARGUMENT…` asks the bench to let the virtual machine mount.
import { connect } from 'node:net';

const [socketPath, ...words] = process.argv.slice(2);
const socket = connect({ path: socketPath, allowHalfOpen: true });
socket.end(JSON.stringify(words));
const chunks = [];
for await (const chunk of socket) chunks.push(chunk);
const { code, stderr } = JSON.parse(Buffer.concat(chunks));
process.stderr.write(stderr);
process.exitCode = code;
