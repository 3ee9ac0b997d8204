import { expect, test } from 'vitest';
import { createPresence } from '../../src/agent/presence.ts';
import type { Mount } from '../../src/agent/tunnel.ts';

const at = (mountPoint: string, port: number | null = null) => ({ port, plan: { mountPoint } }) as Mount;
const line = (mountPoint: string) => `64 29 0:53 / ${mountPoint} rw - nfs4 10.1.1.6:/ rw,addr=10.1.1.6\n`;
const tunnelLine = (port: number) =>
  `65 29 0:54 / /elsewhere rw - nfs4 127.0.0.1:/ rw,port=${port},addr=127.0.0.1\n`;

/** Mount tables that a test changes, and how many of them were read. */
function openTables(...tables: string[]) {
  const state = { tables, read: 0 };
  const presence = createPresence(async function* () {
    for (const table of state.tables) {
      state.read += 1;
      yield table;
    }
  });
  return { state, presence };
}

test('a mount that was in a mount table and is in none any more is gone', async () => {
  const mount = at('/mnt/efs');
  const { state, presence } = openTables('', line('/mnt/efs'));
  await presence.look([mount]);
  expect(presence.of(mount)).toBe('there');

  state.tables = ['', line('/mnt/other')];
  await presence.look([mount]);

  expect(presence.of(mount)).toBe('gone');
});

test('a mount that no readable table ever had is not taken for gone', async () => {
  const mount = at('/mnt/efs');
  const { presence } = openTables('', line('/mnt/other'));

  await presence.look([mount]);
  await presence.look([mount]);

  expect(presence.of(mount)).toBe('unseen');
});

test('no more mount tables are read than it takes to find every mount', async () => {
  const { state, presence } = openTables(line('/mnt/efs') + tunnelLine(20_049), tunnelLine(20_050), '');

  await presence.look([at('/mnt/efs'), at('/any', 20_049)]);
  expect(state.read).toBe(1);
  state.read = 0;
  await presence.look([at('/mnt/efs'), at('/any', 20_050)]);
  expect(state.read).toBe(2);
  state.read = 0;
  await presence.look([]);
  expect(state.read).toBe(0);
});

test('a mount is not gone because a mount table could not be read', async () => {
  const mount = at('/mnt/efs');
  const { state, presence } = openTables(line('/mnt/efs'));
  await presence.look([mount]);

  state.tables = ['', 'no mount table'];

  await expect(presence.look([mount])).rejects.toMatchObject({ code: 'internal' });
  expect(presence.of(mount)).toBe('there');
});
