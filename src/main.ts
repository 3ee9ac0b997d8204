#!/bin/sh
import { createCaller, waitUntilWritten } from './helper/caller.ts';

const caller = createCaller('efs-agent');
// Only now: yargs wants a working directory when it is loaded.
const { runCommandLine } = await import('./cli/command-line.ts');
const status = await runCommandLine(process.argv.slice(2), caller);
await waitUntilWritten();
process.exit(status);
