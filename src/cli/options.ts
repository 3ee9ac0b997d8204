// Options that several commands have, for yargs.

/** `--json`. */
export const jsonOption = {
  type: 'boolean',
  default: false,
  describe: 'for programs; the field names are stable',
} as const;

/** `-o`, as often as one likes. */
export const mountOptions = {
  type: 'string',
  array: true,
  nargs: 1,
  default: [] as string[],
  describe: 'mount options, separated by commas',
} as const;

/** `-v`. */
export const verboseOption = {
  type: 'boolean',
  default: false,
  describe: 'show every phase with its time',
} as const;
