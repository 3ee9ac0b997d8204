import { readFileSync } from 'node:fs';
import { homedir, networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { parseFstab } from '../core/fstab.ts';
import { parseMountInfo } from '../core/mountinfo.ts';
import { createRedactor, findSecretValues, redactValue } from '../core/redact.ts';
import { secretEnvironment } from '../core/secret-environment.ts';
import { version } from '../core/version.ts';
import { agentDirectory, type Caller } from '../helper/caller.ts';
import { readEffectiveConfig } from '../helper/config.ts';
import { readStatusReport } from '../helper/status.ts';
import { writeArchive } from '../host/archive.ts';
import { readKernelRelease, readOwnMountTable } from '../host/own-mounts.ts';
import { findProgram, runProgram } from '../host/programs.ts';
import { readStateFiles } from '../host/runtime-dir.ts';
import { diagnose } from './diagnose.ts';
import type { Places } from './places.ts';
import { createSubject } from './subject.ts';

/** One file of a support archive. */
interface Evidence {
  name: string;
  text: string;
}

const journalTimeoutMs = 10_000;
const journalLines = 300;
/** Of a log file, its end. */
const mostLogBytes = 256 * 1024;

/** Variables that hold the path of a file with a secret in it. */
const secretFiles = ['AWS_WEB_IDENTITY_TOKEN_FILE', 'AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE'];
/** Variables whose value tells more than their name, and is no secret. */
const shownVariables =
  /^(?:EFS_AGENT_\w+|AWS_(?:REGION|DEFAULT_REGION|PROFILE|USE_FIPS_ENDPOINT|EC2_METADATA_\w+)|PATH|LANG|TERM)$/;

/**
 * Collects what somebody needs who is asked for help from afar. What cannot be had is noted in its place; every text
 * has lost what is a secret or looks like one.
 *
 * Errors: none.
 */
async function collectEvidence(caller: Caller, places: Places): Promise<Evidence[]> {
  const redact = createRedactor(findKnownSecrets(caller));
  const json = (value: unknown) => `${JSON.stringify(redactValue(value, redact), null, 2)}\n`;
  const sources: [name: string, read: () => unknown | Promise<unknown>][] = [
    ['versions.json', () => readVersions(caller)],
    ['status.json', () => readStatusReport(caller)],
    ['doctor.json', () => examine(caller, places)],
    ['config.json', () => readEffectiveConfig(caller)],
    ['records.json', () => readStateFiles(agentDirectory(caller))],
    ['environment.json', () => readEnvironment(caller)],
    [
      'mounts.json',
      () => parseMountInfo(readOwnMountTable(caller.files)).filter(({ fsType }) => /^nfs/.test(fsType)),
    ],
    [
      'fstab.json',
      () =>
        parseFstab(readFileSync(places.fstab, 'utf8')).filter(({ fsType }) => /^(?:efs|nfs)/.test(fsType)),
    ],
    ['network.json', () => networkInterfaces()],
    ['resolv.conf', () => readFileSync('/etc/resolv.conf', 'utf8')],
    ['journal.txt', () => readJournal(caller)],
    [
      'agent.log',
      () =>
        readFileSync(join(agentDirectory(caller), 'agent.log'))
          .subarray(-mostLogBytes)
          .toString(),
    ],
  ];
  return Promise.all(
    sources.map(async ([name, read]) => {
      try {
        const found = await read();
        return { name, text: typeof found === 'string' ? redact(found) : json(found) };
      } catch (thrown) {
        return { name, text: redact(`not to be had: ${(thrown as Error).message}\n`) };
      }
    }),
  );
}

const readMe = `What efs-agent bundle collected, to be sent to whoever is asked for help.

Secrets have been taken out: those of the environment and of the credentials files of this machine by their value, and
whatever looks like one; "[removed]" stands in their place. Look through it before you send it all the same.
`;

/**
 * Writes the support archive: the evidence and a note on what it is.
 *
 * @param name the directory in it.
 *
 * Errors: `bundle.failed`.
 */
export async function writeEvidence(
  file: string,
  name: string,
  caller: Caller,
  places: Places,
): Promise<void> {
  const entries = [{ name: 'README', text: readMe }, ...(await collectEvidence(caller, places))];
  await writeArchive(file, name, entries, caller.environment);
}

/** The secrets this machine and caller have: where one turns up, it is taken out by what it is. */
function findKnownSecrets(caller: Caller): string[] {
  const { environment } = caller;
  const home = environment['HOME'] ?? homedir();
  const files = [
    environment['AWS_SHARED_CREDENTIALS_FILE'] ?? join(home, '.aws/credentials'),
    environment['AWS_CONFIG_FILE'] ?? join(home, '.aws/config'),
  ];
  const secrets = [
    ...Object.entries(environment)
      .filter(([name]) => secretEnvironment.includes(name) && name !== 'AWS_ACCESS_KEY_ID')
      .map(([, value]) => value ?? ''),
    ...Object.entries(environment).flatMap(([name, value]) => findSecretValues(`${name}=${value}`)),
    ...files.flatMap((file) => findSecretValues(readText(file))),
    ...secretFiles.flatMap((name) => readText(environment[name] ?? '').trim()),
  ];
  return secrets.filter((secret) => secret !== '');
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

async function examine(caller: Caller, places: Places) {
  const subject = createSubject(caller, places, null);
  return diagnose(subject, null).finally(subject.close);
}

function readVersions(caller: Caller) {
  return {
    efsAgent: version,
    node: process.versions,
    kernel: readKernelRelease(caller.files),
    machine: process.arch,
    distribution: readText('/etc/os-release').trim().split('\n'),
  };
}

/** Which variables are set; of most the name alone. */
function readEnvironment({ environment }: Caller) {
  const names = Object.keys(environment).filter((name) =>
    /^(?:AWS|EFS)_|^(?:PATH|LANG|TERM|NO_COLOR)$/.test(name),
  );
  return Object.fromEntries(
    names
      .sort()
      .map((name) => [name, shownVariables.test(name) ? environment[name] : '(set; its value is not kept)']),
  );
}

async function readJournal(caller: Caller): Promise<string> {
  const program = findProgram('journalctl', caller.environment['PATH']);
  if (program === null) return 'not to be had: journalctl is not here\n';
  const { stdout, stderr } = await runProgram(
    program,
    ['--unit=efs-agent', `--lines=${journalLines}`, '--no-pager', '--output=short-iso'],
    { timeoutMs: journalTimeoutMs, environment: caller.environment },
  );
  return stdout === '' ? `not to be had: ${stderr}` : stdout;
}
