#!/usr/bin/env node
import { runCommandLine } from './cli/command-line.ts';
import { createCaller } from './helper/caller.ts';

process.exit(await runCommandLine(process.argv.slice(2), createCaller('efs-agent')));
