import { type FaultCode, faults } from './faults.ts';

export { type FaultCode, faults } from './faults.ts';
export type Details = Readonly<Record<string, string | number | boolean | null>>;

/** One error of the fault table as it travels between our processes. Carries no secret. */
export interface ErrorMessage {
  code: FaultCode;
  message: string;
  details: Details;
}

/** A failure that efs-agent explains to a person: a code of the fault table, what failed, on what. */
export class AgentError extends Error {
  readonly code: FaultCode;
  readonly details: Details;

  constructor(code: FaultCode, message: string, details: Details = {}, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'AgentError';
    this.code = code;
    this.details = details;
  }

  /** One next step for the administrator: the fault table's, unless the place of the failure knew a better one. */
  get hint(): string {
    const own = this.details['hint'];
    return typeof own === 'string' ? own : faults[this.code].hint;
  }

  toMessage(): ErrorMessage {
    return { code: this.code, message: this.message, details: this.details };
  }
}

/**
 * Reads an error that another of our processes sent.
 *
 * Errors: a code this version does not know becomes `internal`, its text kept.
 */
export function fromErrorMessage(wire: ErrorMessage): AgentError {
  return Object.hasOwn(faults, wire.code)
    ? new AgentError(wire.code, wire.message, wire.details)
    : new AgentError('internal', `${wire.code}: ${wire.message}`, wire.details);
}

/** Anything that was thrown, as an `AgentError`: itself, or `internal` with its cause. */
export function asAgentError(thrown: unknown): AgentError {
  if (thrown instanceof AgentError) return thrown;
  const text = thrown instanceof Error ? thrown.message : String(thrown);
  return new AgentError('internal', text, {}, thrown);
}

/**
 * The lines a person sees on stderr: what failed, its code, and one next step.
 *
 * @param program the name the user typed, for example `mount.efs`.
 */
export function renderError(program: string, error: AgentError): string {
  return `${program}: ${error.message} [${error.code}]\n  ${error.hint}\n`;
}
