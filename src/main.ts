#!/bin/sh
import { createCaller } from './helper/caller.ts';

const caller = createCaller('efs-agent');
// Only now: yargs wants a working directory when it is loaded.
const { runCommandLine } = await import('./cli/command-line.ts');
process.exit(await runCommandLine(process.argv.slice(2), caller));
