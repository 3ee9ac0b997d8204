#!/bin/sh
import { basename } from 'node:path';
import { createCaller, waitUntilWritten } from './helper/caller.ts';
import { runMountHelper, runUmountHelper } from './helper/program.ts';

const program = basename(process.argv[1] ?? 'mount.efs');
const run = program.startsWith('umount') ? runUmountHelper : runMountHelper;
void run(process.argv.slice(2), createCaller(program)).then(async (status) => {
  await waitUntilWritten();
  process.exit(status);
});
