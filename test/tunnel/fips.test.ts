import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { buildBundle, removeBundle } from '../support/bundle.ts';

/** What the worker's own contexts offer on this Node in FIPS mode, or why Node does not start in it. */
const script = `
  const { createTunnelContext } = require(process.argv[1]);
  createTunnelContext({ trustedRootsPem: [], serverName: 'x', client: null });
  const { getFips, getCurves, createHash } = require('node:crypto');
  let md5 = true;
  try { createHash('md5'); } catch { md5 = false; }
  console.log(JSON.stringify({ fips: getFips(), md5 }));
`;

test('in FIPS mode Node either does not start, or makes tunnels with validated algorithms alone', async () => {
  const bundle = await buildBundle('src/tunnel/dial.ts');
  try {
    const { status, stdout, stderr } = spawnSync(process.execPath, ['--force-fips', '-e', script, bundle], {
      encoding: 'utf8',
      env: { PATH: process.env['PATH'] },
    });

    if (status === 0) expect(JSON.parse(stdout)).toEqual({ fips: 1, md5: false });
    else expect(stderr).toMatch(/FIPS/i);
  } finally {
    await removeBundle(bundle);
  }
});
