import { AgentError } from './errors.ts';

const unitsMs: Readonly<Record<string, number>> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };
const mostMs = 30 * 86_400_000;

/**
 * Reads a duration such as `90`, `90s`, `10m`, `2h` or `1d`; without a unit, seconds.
 *
 * @param name of the option, for the message.
 *
 * Units: milliseconds. Errors: `usage` for anything else, for 0 and for more than 30 days.
 */
export function parseDuration(text: string, name: string): number {
  const match = /^([0-9]{1,9})([smhd]?)$/.exec(text);
  const durationMs = match === null ? 0 : Number(match[1]) * unitsMs[match[2] || 's']!;
  if (durationMs > 0 && durationMs <= mostMs) return durationMs;
  throw new AgentError(
    'usage',
    `${name} must be a duration up to 30 days, such as 30s, 10m or 2h, not "${text}"`,
  );
}
