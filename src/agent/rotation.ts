import type { CredentialsAlarm } from '../core/control-protocol.ts';
import { type AgentError, asAgentError, type Details } from '../core/errors.ts';
import type { CertificateReply } from '../core/identity-protocol.ts';
import type { Clock, Log } from '../core/ports.ts';
import {
  beginRenewal,
  type CertificateLife,
  decideRenewal,
  type Instant,
  type RenewalEvent,
  type RenewalState,
} from '../core/renewal.ts';

export interface RotationPorts {
  clock: Clock;
  log: Log;
  random: () => number;
  /** How long a certificate may be used, in milliseconds. */
  longestUseMs: number;
  /** Errors: `credentials.*`, `metadata.unavailable`. */
  make(): Promise<CertificateReply>;
  /** A new certificate counts from now on. */
  use(certificate: CertificateReply): Promise<void>;
  failed(error: AgentError): void;
}

/** Replaces the client certificate of one mount ahead of its end; the old one stays in use until there is a new one. */
export interface Rotation {
  /** The certificate that was made last; null before the first. */
  current(): CertificateReply | null;
  /** @param certificate what was made for the mount already; null = make one now, and try until there is one. */
  begin(certificate: CertificateReply | null): void;
  /** Looks whether the clock was set. Cheap: now and then, and before a certificate is shown to anyone. */
  look(): void;
  /** Why there is no new certificate, when there should be. */
  alarm(): CredentialsAlarm | null;
  close(): void;
}

/** @param about names the mount in the log. */
export function createRotation(ports: RotationPorts, about: Details): Rotation {
  const { clock, log } = ports;
  let current: CertificateReply | null = null;
  let state: RenewalState | null = null;
  let lastError: AgentError | null = null;
  let timer: { cancel(): void } | null = null;
  /** What `timer` is for. */
  let scheduled: RenewalState['next'] | null = null;
  let closed = false;

  const readClocks = (): Instant => ({ wallMs: clock.nowMs(), monoMs: clock.monoMs() });

  function step(event: RenewalEvent): void {
    if (state === null || closed) return;
    const [next, actions] = decideRenewal(state, event, readClocks(), ports.random());
    state = next;
    for (const action of actions) {
      switch (action.kind) {
        case 'ask':
          void ask();
          break;
        case 'raise':
          sayTrouble(action.level);
          break;
        case 'healed':
          log('info', 'credentials.recovered', { ...about, outageMs: action.afterMs });
          break;
        case 'clock-set':
          log('warn', 'clock.set', { ...about, byMs: Math.round(action.byMs) });
          break;
      }
    }
    schedule();
  }

  function sayTrouble(level: 'noted' | 'alarm' | 'expired'): void {
    const fields = {
      ...about,
      code: lastError?.code ?? null,
      error: lastError?.message ?? null,
      certificateEnds: current === null ? null : new Date(current.notAfterMs).toISOString(),
    };
    if (level === 'noted') log('warn', 'client-certificate.not-renewed', fields);
    else log('error', level === 'alarm' ? 'credentials.outage' : 'client-certificate.expired', fields);
  }

  function schedule(): void {
    if (closed || state === null || state.next === scheduled) return;
    scheduled = state.next;
    timer?.cancel();
    timer = null;
    if (state.next.kind !== 'ask') return;
    timer = clock.schedule(Math.max(0, state.next.dueMonoMs - clock.monoMs()), () => {
      // A timer may come a moment early.
      scheduled = null;
      step({ kind: 'looked' });
    });
  }

  const lifeOf = ({ notAfterMs, identity }: CertificateReply): CertificateLife => ({
    notAfterMs,
    credentialsExpireAtMs: identity?.expiresAtMs ?? null,
    longestUseMs: ports.longestUseMs,
  });

  async function ask(): Promise<void> {
    try {
      const made = await ports.make();
      if (closed) return;
      current = made;
      await ports.use(made);
      step({ kind: 'made', certificate: lifeOf(made) });
    } catch (error) {
      lastError = asAgentError(error);
      ports.failed(lastError);
      step({ kind: 'failed' });
    }
  }

  return {
    current: () => current,
    begin(certificate) {
      current = certificate;
      const life = certificate === null ? null : lifeOf(certificate);
      state = beginRenewal(life, readClocks(), ports.random());
      step({ kind: 'looked' });
    },
    look: () => step({ kind: 'looked' }),
    alarm() {
      const trouble = state?.trouble ?? null;
      if (trouble === null || trouble.level === 'noted' || lastError === null) return null;
      return { ...lastError.toMessage(), sinceMs: trouble.sinceMs };
    },
    close() {
      closed = true;
      timer?.cancel();
    },
  };
}
