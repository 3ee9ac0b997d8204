export { parseTargetArguments } from './options.ts';
export { readyMessage } from './ready.ts';
export { openTarget } from './target.ts';
