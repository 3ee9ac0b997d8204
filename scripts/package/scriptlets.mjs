import { readFileSync } from 'node:fs';

const folder = 'scripts/package/scriptlets';

/** One of the scripts that run at installation and removal, whole: `deb/postinst`, `rpm/post`. */
export function readScriptlet(name) {
  const [, ...common] = readFileSync(`${folder}/common.sh`, 'utf8').split('\n');
  return readFileSync(`${folder}/${name}`, 'utf8').replace(
    /^# shellcheck source=.*\n\. \.\/common\.sh\n/m,
    () => `${common.join('\n')}\n`,
  );
}
