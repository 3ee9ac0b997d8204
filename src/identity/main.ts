import { AgentError } from '../core/errors.ts';
import type { AgentToIdentity, IdentityToAgent } from '../core/identity-protocol.ts';
import { secretEnvironment } from '../core/secret-environment.ts';
import { createIdentity, type Identity } from './identity.ts';

/**
 * Entry point of the identity process, forked by the agent: see core/identity-protocol.ts.
 *
 * It says `ready`, answers requests side by side, and leaves after a minute without any or when the agent is gone.
 */

const defaultIdleExitMs = 60_000;

let identity: Identity | null = null;
let idleExitMs = defaultIdleExitMs;
let pending = 0;
let idleTimer = setTimeout(leave, idleExitMs);

process.on('message', (message: AgentToIdentity) => void receive(message));
process.once('disconnect', leave);
// A foreign error may quote a secret, and a stack trace helps nobody who mounts: only its name is told.
process.on('uncaughtException', (thrown) => {
  process.stderr.write(
    `efs-agent identity: unexpected ${thrown instanceof Error ? thrown.name : 'error'}, leaving\n`,
  );
  process.exit(1);
});
send({ kind: 'ready', pid: process.pid });

async function receive(message: AgentToIdentity): Promise<void> {
  if (message.kind === 'start') {
    adoptEnvironment(message);
    identity = createIdentity(message, Date.now, Math.random);
    idleExitMs = message.idleExitMs ?? defaultIdleExitMs;
    restartIdleTimer();
    return;
  }
  pending += 1;
  clearTimeout(idleTimer);
  send(await answer(message));
  pending -= 1;
  restartIdleTimer();
}

async function answer(message: Exclude<AgentToIdentity, { kind: 'start' }>): Promise<IdentityToAgent> {
  const { kind, requestId } = message;
  try {
    if (!identity) throw new AgentError('agent.protocol', `the identity process got ${kind} before start`);
    switch (kind) {
      case 'certificate':
        return { kind: 'certificate.done', requestId, reply: await identity.certificate(message.request) };
      case 'instance':
        return {
          kind: 'instance.done',
          requestId,
          instance: await identity.instance(message.withZoneId ?? false),
        };
      case 'mountTargets':
        return {
          kind: 'mountTargets.done',
          requestId,
          mountTarget: await identity.mountTarget(message.request),
        };
      case 'whoami':
        return {
          kind: 'whoami.done',
          requestId,
          identity: await identity.whoami(message.credentials, message),
        };
      case 'publish':
        await identity.publish(message.event);
        return { kind: 'publish.done', requestId };
      default:
        throw new AgentError('agent.protocol', 'the identity process got a message of another version');
    }
  } catch (thrown) {
    const unexpected = `unexpected ${thrown instanceof Error ? thrown.name : 'error'} in the identity process`;
    const error = thrown instanceof AgentError ? thrown : new AgentError('internal', unexpected);
    return { kind: 'failed', requestId, error: error.toMessage() };
  }
}

/** The AWS SDK reads the environment of its process: the caller's, but for its secrets, replaces the agent's before anything is asked. */
function adoptEnvironment({
  environment,
  home,
  metadataEndpoint,
}: Extract<AgentToIdentity, { kind: 'start' }>): void {
  for (const name of Object.keys(process.env)) if (name.startsWith('AWS_')) delete process.env[name];
  const open = Object.entries(environment).filter(([name]) => !secretEnvironment.includes(name));
  Object.assign(process.env, Object.fromEntries(open), {
    HOME: home,
    AWS_EC2_METADATA_V1_DISABLED: 'true',
    // Which Node runs us is the package's business; the warning would stand in the log of every mount.
    AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED: 'true',
  });
  if (metadataEndpoint !== null) process.env['AWS_EC2_METADATA_SERVICE_ENDPOINT'] = metadataEndpoint;
}

function restartIdleTimer(): void {
  clearTimeout(idleTimer);
  if (pending === 0) idleTimer = setTimeout(leave, idleExitMs);
}

function send(message: IdentityToAgent): void {
  // With a callback the failure of a closed channel is not thrown: `disconnect` says the same.
  process.send?.(message, undefined, undefined, () => undefined);
}

function leave(): void {
  process.exit(0);
}
