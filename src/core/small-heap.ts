/**
 * Flags of Node for the processes that stay: small spaces for young objects, and one helping thread. They make little garbage and
 * keep what they have for days, and garbage that nobody collects is memory all the same.
 *
 * Source: measured, docs/decisions/0016. The service's unit has the same words, and so has the start of `efs-agent agent` (scripts/build.mjs).
 */
export const smallHeap: readonly string[] = ['--max-semi-space-size=1', '--v8-pool-size=1'];
