import fc from 'fast-check';
import stringWidth from 'string-width';
import { expect, test } from 'vitest';
import { formatBytes, formatDuration, renderStatus } from '../../src/cli/render.ts';
import { reportOf } from '../helper/stage.ts';

const nowMs = Date.UTC(2026, 10, 23, 13, 2, 5);

const view = { nowMs, width: null };

test('the status of an agent with one mount fits 80 columns', () => {
  const text = renderStatus(
    reportOf('/mnt/efs', {
      serverCertificateExpiresAtMs: nowMs + 90 * 86_400_000,
      lastError: { code: 'target.closed', message: '10.1.1.6 broke it', details: {}, atMs: nowMs - 61_000 },
    }),
    { nowMs, width: 80 },
  );

  expect(text).toBe(`efs-agent 0.1.0, pid 4711, up 1 h 2 min
tunnel worker pid 4712, serving, 0 restarts, 64.0 KiB buffered

FILE SYSTEM           MOUNT POINT  STATE        UP/s   DOWN/s  WAITING
fs-0123456789abcdef0  /mnt/efs     mounted  2.00 KiB  128 KiB   3, 1 s
  10.1.1.6, TLSv1.3 TLS_AES_256_GCM_SHA384, its certificate good for 90 d 0 h
  port 20049
  as arn:aws:sts::111122223333:assumed-role/efs-client/i-0123456789abcdef0
  from instance role, certificate good for 2 h 27 min
  11.8 MiB up, 9.20 GiB down, 3 requests in flight, 1 session, 2 reconnects
  last error 1 min 1 s ago: 10.1.1.6 broke it [target.closed]
`);
});

test('an alarm about credentials says since when, why, and how long the certificate is still good', () => {
  const text = renderStatus(
    reportOf('/mnt/efs', {
      alarm: {
        code: 'metadata.unavailable',
        message: 'nobody answers',
        details: {},
        sinceMs: nowMs - 2 * 3_600_000,
      },
    }),
    view,
  );

  expect(text).toContain(`
  ALARM: no new certificate for 2 h 0 min, the present one good for 2 h 27 min:
    nobody answers [metadata.unavailable]
`);
});

test.each([60, 80, 120])('nothing is wider than a terminal of %i columns', (width) => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme', maxLength: 200 }), (name) => {
      const text = renderStatus(reportOf(`/${name}`, { mountPoints: [`/${name}/bind`] }), { nowMs, width });

      for (const line of text.split('\n')) expect(stringWidth(line)).toBeLessThanOrEqual(width);
    }),
  );
});

test('a long path loses its middle, and both ends stay', () => {
  const path = `/srv/${'deep/'.repeat(40)}data`;

  expect(renderStatus(reportOf(path), { nowMs, width: 80 })).toMatch(/ \/srv\/d\S*…\S*\/data {2}mounted/);
  expect(renderStatus(reportOf(path), view)).toContain(path);
});

test('an agent without mounts says so', () => {
  const text = renderStatus({ ...reportOf(null), mounts: [] }, view);

  expect(text).toContain('\nno tunnel is open\n');
});

test('mounts whose agent is gone are shown with what is known of them', () => {
  const text = renderStatus(
    { ...reportOf('/mnt/efs', { state: 'unwatched' }), agent: 'absent', pid: null, worker: null },
    view,
  );

  expect(text).toMatch(
    /^the agent is not running; 1 mount recorded, which nobody repairs until it is back\n/,
  );
  expect(text).toContain('/mnt/efs     unwatched');
  expect(text).not.toContain('anonymous');
});

test('bind mounts of the same mount, and its access point, are shown', () => {
  const text = renderStatus(
    reportOf('/mnt/efs', { accessPointId: 'fsap-1', mountPoints: ['/mnt/efs', '/srv/app'] }),
    view,
  );

  expect(text).toContain('\n  access point fsap-1, port 20049, also at /srv/app\n');
});

test('what has expired is said to have', () => {
  const text = renderStatus(reportOf('/mnt/efs', { clientCertificateExpiresAtMs: nowMs - 60_000 }), view);

  expect(text).toContain('from instance role, certificate expired 1 min 0 s ago\n');
});

test('a tunnel without a mount shows its port, and an anonymous one that it is', () => {
  const text = renderStatus(
    reportOf(null, { state: 'tunnel', iam: false, identity: null, tlsVersion: null }),
    view,
  );

  expect(text).toContain('(port 20049)  tunnel');
  expect(text).toContain('no TLS session yet');
  expect(text).toContain('  anonymous (without the option iam)\n');
});

test('a mount that is gone while its tunnel is in use is shown as detached, with the reason in 80 columns', () => {
  const text = renderStatus(reportOf('/mnt/efs', { state: 'detached' }), view);

  expect(text).toMatch(/\/mnt\/efs +detached/);
  expect(text).toContain('\n  unmounted; the kernel still uses its tunnel');
  for (const line of text.split('\n')) expect(line.length).toBeLessThanOrEqual(80);
});

test('whatever a mount point is called, the terminal gets no control character', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (mountPoint) => {
      const text = renderStatus(reportOf(`/${mountPoint}`), view);

      expect(text.replaceAll('\n', '')).not.toMatch(/\p{Cc}/u);
    }),
  );
});

test('a count of bytes has three digits and a unit', () => {
  expect([0, 999, 1_000, 1_024, 102_400, 1_048_576, 5e15].map(formatBytes)).toEqual([
    '0 B',
    '999 B',
    '0.977 KiB',
    '1.00 KiB',
    '100 KiB',
    '1.00 MiB',
    '4.44 PiB',
  ]);
  fc.assert(
    fc.property(fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }), (bytes) => {
      expect(formatBytes(bytes)).toMatch(/^[\d.]{1,5} (?:B|[KMGTP]iB)$/);
    }),
  );
});

test('a duration has its two largest units', () => {
  expect([-1, 59_000, 61_000, 3_600_000, 90_000_000].map(formatDuration)).toEqual([
    '0 s',
    '59 s',
    '1 min 1 s',
    '1 h 0 min',
    '1 d 1 h',
  ]);
});

test('a mount without tls is shown as what it is', () => {
  const text = renderStatus(
    reportOf('/mnt/efs', { tls: false, port: null, identity: null, path: '/app' }),
    view,
  );

  expect(text).toContain('  10.1.1.6, /app, no tunnel: not encrypted, as tls was not given\n');
  expect(text).not.toContain('anonymous');
});
