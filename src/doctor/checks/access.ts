import { asAgentError, faults } from '../../core/errors.ts';
import { type Check, type Finding, ifKnown, pass, skip } from '../check.ts';
import { nfsStatus, type ProbeAnswer } from '../nfs-probe.ts';
import type { Subject } from '../subject.ts';

/** Whether the policy lets this client in: told apart from what NFS itself refuses, which is the next check. */
export const access: Check = {
  name: 'access',
  layer: 'iam',
  async run(subject) {
    const asked = await ask(subject);
    if ('verdict' in asked) return asked;
    const who = await describeClient(subject);
    switch (asked.kind) {
      case 'nfs':
        return pass(`${who} may mount`);
      case 'denied':
        return denied(
          `the mount target refused ${who}: the file system policy does not grant elasticfilesystem:ClientMount`,
          subject.spec!.iam
            ? `Allow elasticfilesystem:ClientMount to ${who} in the file system policy, or in the identity policy of the role.`
            : 'Add the option iam, or allow anonymous clients in the file system policy.',
        );
      case 'closed':
        return denied(
          `the mount target closed the connection after the TLS handshake, without a word to ${who}`,
          subject.spec!.iam
            ? 'Check that the file system is in this region and account, and the clock (date -u): so a client certificate is refused.'
            : 'Check that the address is a mount target of this file system, and whether its policy wants iam.',
        );
      case 'silent':
        return skip('the mount target did not answer; see nfs');
      case 'not-nfs':
        return skip('what answered does not speak NFS; see nfs');
    }
  },
};

/** Whether NFS finds the directory and lets root in. */
export const nfs: Check = {
  name: 'nfs',
  layer: 'nfs',
  async run(subject) {
    const asked = await ask(subject);
    if ('verdict' in asked) return asked;
    const { fileSystemId, spec } = await subject.plan();
    const what = `${fileSystemId}:${spec.path}`;
    switch (asked.kind) {
      case 'denied':
      case 'closed':
        return skip('the mount target did not let this client in');
      case 'silent':
        return failed('nfs.timeout', 'the mount target accepted the connection and did not answer a call');
      case 'not-nfs':
        return failed('nfs.failed', 'what answers there does not speak NFS 4');
      case 'nfs':
        return explainStatus(asked, what);
    }
  },
};

/** The answer of the mount target, asked once for both checks. */
async function ask(subject: Subject): Promise<ProbeAnswer | Finding> {
  const { spec } = subject;
  if (spec === null) return skip('no file system was named');
  if ((await ifKnown(subject.endpoints())) === null) return skip('no connection to the mount target');
  if (spec.iam && (await ifKnown(subject.identity())) === null) return skip('there are no credentials');
  const answer = subject.answer();
  const unanswered = await answer.then(() => null, asAgentError);
  if (unanswered === null) return answer;
  const { layer } = faults[unanswered.code];
  return skip(`the connection was not made: ${unanswered.message} (see ${layer})`);
}

async function describeClient({ spec, identity }: Subject): Promise<string> {
  const through = spec!.accessPoint === null ? '' : ` through access point ${spec!.accessPoint}`;
  if (!spec!.iam) return `an anonymous client${through}`;
  const found = await ifKnown(identity());
  return `${found?.arn ?? `access key ${found?.accessKeyId ?? 'unknown'}`}${through}`;
}

function explainStatus({ status, mayWrite }: Extract<ProbeAnswer, { kind: 'nfs' }>, what: string): Finding {
  switch (status) {
    case nfsStatus.ok:
      return pass(
        mayWrite
          ? `${what} is there; root may write`
          : `${what} is there; root may read and not write: without ClientWrite nobody may, without ClientRootAccess root is nobody`,
      );
    case nfsStatus.notFound:
    case nfsStatus.notDirectory:
      return {
        ...failed(
          'nfs.failed',
          `${what} ${status === nfsStatus.notFound ? 'does not exist' : 'is not a directory'}`,
        ),
        fix: 'Mount / and make the directory, or name one that exists.',
      };
    case nfsStatus.accessDenied:
    case nfsStatus.notPermitted:
      return {
        ...failed('nfs.failed', `NFS refuses root the way to ${what} (status ${status})`),
        fix: 'Check owner and mode of the directories on the way: without ClientRootAccess root is nobody.',
      };
    default:
      return failed('nfs.failed', `NFS answered with status ${status} for ${what}`);
  }
}

const denied = (evidence: string, fix: string): Finding => ({
  verdict: 'FAIL',
  evidence,
  fix,
  code: 'access.denied',
});

const failed = (code: 'nfs.failed' | 'nfs.timeout', evidence: string): Finding => ({
  verdict: 'FAIL',
  evidence,
  fix: faults[code].hint,
  code,
});
