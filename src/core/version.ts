declare const __EFS_AGENT_VERSION__: string;

/** The version of this build; run from source, where nothing defines it, `0.0.0-dev`. */
export const version = typeof __EFS_AGENT_VERSION__ === 'string' ? __EFS_AGENT_VERSION__ : '0.0.0-dev';
