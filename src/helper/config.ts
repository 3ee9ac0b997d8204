import { type EffectiveSetting, listEffectiveSettings, parseConfig } from '../core/config.ts';
import { readConfigFiles } from '../host/config-files.ts';
import type { Caller } from './caller.ts';

/** The configuration that holds for the caller: the files, each key's value and origin, and what to know about them. */
export interface EffectiveConfig {
  /** Paths, in the order in which later ones count. */
  files: string[];
  settings: EffectiveSetting[];
  warnings: readonly string[];
}

/** Reads the configuration as the agent reads it for a mount. Errors: `config.*`. */
export async function readEffectiveConfig(caller: Caller): Promise<EffectiveConfig> {
  const files = await readConfigFiles(caller.environment);
  const { warnings } = parseConfig(files);
  return { files: files.map(({ path }) => path), settings: listEffectiveSettings(files), warnings };
}
