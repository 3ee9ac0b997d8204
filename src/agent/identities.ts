import { AgentError, fromErrorMessage } from '../core/errors.ts';
import type {
  AgentToIdentity,
  CertificateReply,
  CertificateRequest,
  IdentityFacts,
  IdentityToAgent,
  InstanceFacts,
  LogEvent,
  MountTargetFacts,
  MountTargetsRequest,
} from '../core/identity-protocol.ts';
import type { Child, Clock, Log } from '../core/ports.ts';

export type IdentityChild = Child<AgentToIdentity, IdentityToAgent>;

/** Whose credentials: the caller's environment, and where the instance metadata service answers. */
export interface Caller {
  environment: Record<string, string>;
  metadataEndpoint: string | null;
}

/** Identity processes, one per caller environment, started on demand; each leaves when it was idle for a while. */
export interface Identities {
  /** Errors: `credentials.*`, `metadata.unavailable`. */
  certificate(caller: Caller, request: CertificateRequest): Promise<CertificateReply>;
  /** Errors: `metadata.unavailable`. */
  instance(caller: Caller, want?: { withZoneId: boolean }): Promise<InstanceFacts>;
  /** Errors: `credentials.*`, `dns.not-found`, `dns.failed`. */
  mountTargets(caller: Caller, request: MountTargetsRequest): Promise<MountTargetFacts>;
  /** Errors: `credentials.*`; the ARN stays null when nobody can tell it. */
  whoami(caller: Caller, request: WhoamiRequest): Promise<IdentityFacts>;
  /** Errors: `credentials.*`, `cloudwatch.failed`. */
  publish(caller: Caller, event: LogEvent): Promise<void>;
  close(): void;
}

export type WhoamiRequest = Omit<Extract<AgentToIdentity, { kind: 'whoami' }>, 'kind' | 'requestId'>;

export interface IdentityPorts {
  clock: Clock;
  log: Log;
  home: string;
  startIdentity(): IdentityChild;
}

/** The identity process has its own, shorter limits for every source; this one is for a process that hangs. */
const deadlineMs = 60_000;

type Request = Extract<AgentToIdentity, { requestId: number }>;
type WithoutId<T> = T extends unknown ? Omit<T, 'requestId'> : never;

export function createIdentities(ports: IdentityPorts): Identities {
  const { clock, log } = ports;
  const processes = new Map<
    string,
    { ask(request: WithoutId<Request>): Promise<IdentityToAgent>; child: IdentityChild }
  >();

  function processFor(caller: Caller) {
    const key = JSON.stringify([Object.entries(caller.environment).sort(), caller.metadataEndpoint]);
    const existing = processes.get(key);
    if (existing !== undefined) return existing;

    const child = ports.startIdentity();
    const waiting = new Map<
      number,
      { resolve(message: IdentityToAgent): void; reject(error: AgentError): void }
    >();
    let nextRequestId = 1;
    log('debug', 'identity.started', { pid: child.pid });
    child.onMessage((message) => {
      if (message.kind === 'ready') return;
      const request = waiting.get(message.requestId);
      waiting.delete(message.requestId);
      if (message.kind === 'failed') request?.reject(fromErrorMessage(message.error));
      else request?.resolve(message);
    });
    child.onExit((how) => {
      processes.delete(key);
      log('debug', 'identity.ended', { pid: child.pid, how });
      for (const request of waiting.values()) {
        request.reject(new ProcessEnded(how));
      }
    });
    child.send({
      kind: 'start',
      environment: caller.environment,
      metadataEndpoint: caller.metadataEndpoint,
      home: ports.home,
    });

    const started = {
      child,
      ask(request: WithoutId<Request>): Promise<IdentityToAgent> {
        const requestId = nextRequestId++;
        return new Promise((resolve, reject) => {
          const deadline = clock.schedule(deadlineMs, () => {
            log('error', 'identity.hung', { pid: child.pid });
            child.kill('SIGKILL');
          });
          waiting.set(requestId, {
            resolve(message) {
              deadline.cancel();
              resolve(message);
            },
            reject(error) {
              deadline.cancel();
              reject(error);
            },
          });
          child.send({ ...request, requestId } as Request);
        });
      },
    };
    processes.set(key, started);
    return started;
  }

  /** A process that left because it was idle, just as it was asked, is no failure: the next one is asked. */
  async function ask(caller: Caller, request: WithoutId<Request>): Promise<IdentityToAgent> {
    try {
      return await processFor(caller).ask(request);
    } catch (error) {
      if (error instanceof ProcessEnded && error.idle) return processFor(caller).ask(request);
      throw error;
    }
  }

  return {
    async certificate(caller, request) {
      const answer = await ask(caller, { kind: 'certificate', request });
      if (answer.kind !== 'certificate.done') throw unexpected(answer);
      return answer.reply;
    },
    async instance(caller, want) {
      const answer = await ask(caller, { kind: 'instance', ...want });
      if (answer.kind !== 'instance.done') throw unexpected(answer);
      return answer.instance;
    },
    async mountTargets(caller, request) {
      const answer = await ask(caller, { kind: 'mountTargets', request });
      if (answer.kind !== 'mountTargets.done') throw unexpected(answer);
      return answer.mountTarget;
    },
    async whoami(caller, request) {
      const answer = await ask(caller, { kind: 'whoami', ...request });
      if (answer.kind !== 'whoami.done') throw unexpected(answer);
      return answer.identity;
    },
    async publish(caller, event) {
      const answer = await ask(caller, { kind: 'publish', event });
      if (answer.kind !== 'publish.done') throw unexpected(answer);
    },
    close() {
      for (const { child } of processes.values()) child.kill('SIGTERM');
    },
  };
}

class ProcessEnded extends AgentError {
  readonly idle: boolean;

  constructor(how: string) {
    super('credentials.failed', `the identity process ended while it was asked: ${how}`);
    this.idle = how === 'exit status 0';
  }
}

function unexpected(answer: IdentityToAgent): AgentError {
  return new AgentError('internal', `the identity process answered with ${answer.kind}`);
}
