import { type AgentError, faults } from './errors.ts';

/**
 * Fault to exit status, as mount(8) defines them: 1 wrong invocation or permissions, 2 system error,
 * 4 internal defect, 8 interrupted, 32 mount failure.
 *
 * Source: mount(8), "EXIT STATUS".
 */
export function exitCodeOf(error: AgentError): number {
  return faults[error.code].exit;
}
