import fc from 'fast-check';
import { expect, test } from 'vitest';
import { formatBytes, formatDuration, renderStatus } from '../../src/cli/render.ts';
import { statusOf } from '../helper/stage.ts';

const nowMs = Date.UTC(2026, 10, 23, 13, 2, 5);

test('the status of an agent with one mount fits 80 columns', () => {
  const text = renderStatus(statusOf('/mnt/efs'), nowMs);

  expect(text).toBe(`efs-agent 0.1.0, pid 4711, up 1 h 2 min
tunnel worker pid 4712, serving, 0 restarts, 64.0 KiB buffered

FILE SYSTEM           MOUNT POINT  STATE    SESSIONS        UP      DOWN
fs-0123456789abcdef0  /mnt/efs     mounted         1  11.8 MiB  9.20 GiB
  10.1.1.6, TLSv1.3 TLS_AES_256_GCM_SHA384, port 20049, 2 reconnects
  as arn:aws:sts::111122223333:assumed-role/efs-client/i-0123456789abcdef0
  from instance role, certificate good for 2 h 27 min
`);
  for (const line of text.split('\n')) expect(line.length).toBeLessThanOrEqual(80);
});

test('an agent without mounts says so', () => {
  const text = renderStatus({ ...statusOf(null), mounts: [] }, nowMs);

  expect(text).toContain('\nno tunnel is open\n');
});

test('a tunnel without a mount shows its port, an anonymous one that it is, and the last error', () => {
  const text = renderStatus(
    statusOf(null, {
      state: 'tunnel',
      iam: false,
      identity: null,
      tlsVersion: null,
      lastError: { code: 'target.silent', message: 'no answer', details: {} },
    }),
    nowMs,
  );

  expect(text).toContain('(port 20049)  tunnel');
  expect(text).toContain('no TLS session yet');
  expect(text).toContain('  anonymous (without the option iam)\n');
  expect(text).toContain('  last error: no answer [target.silent]\n');
});

test('whatever a mount point is called, the terminal gets no control character', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (mountPoint) => {
      const text = renderStatus(statusOf(`/${mountPoint}`), nowMs);

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
    statusOf('/mnt/efs', { tls: false, port: null, identity: null, path: '/app' }),
    0,
  );

  expect(text).toContain('  10.1.1.6, /app: no tunnel, not encrypted (tls was not given)\n');
  expect(text).not.toContain('anonymous');
});
