// The least a relay in Node can be: two-way pipe(). Arguments: port to connect to, CA file, server name.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { connect } from 'node:tls';

const [port, caFile, servername] = process.argv.slice(2);
const ca = readFileSync(caFile);
const server = createServer({ noDelay: true }, (local) => {
  const upstream = connect({ host: '127.0.0.1', port: Number(port), ca, servername });
  upstream.setNoDelay(true);
  local.pipe(upstream).pipe(local);
  local.on('error', () => upstream.destroy());
  upstream.on('error', () => local.destroy());
});
server.listen(0, '127.0.0.1', () => process.stdout.write(`127.0.0.1:${server.address().port}\n`));
