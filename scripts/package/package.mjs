// npm run package: every package of this build, into out/packages. Two builds of one commit give the same bytes.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { buildDeb } from './deb.mjs';
import { buildNpm } from './npm.mjs';
import { renderBillOfMaterials } from './parts.mjs';
import { buildRpm } from './rpm.mjs';

const builders = { deb: buildDeb, rpm: buildRpm, npm: buildNpm };
const processors = { x64: 'x64', arm64: 'arm64', 'system-node': null };
const kinds = [
  ...['deb', 'rpm'].flatMap((kind) => Object.keys(processors).map((name) => `${kind}-${name}`)),
  'npm',
];

const usage = `usage: npm run package [-- --out DIR --release N --only KIND]
  --out DIR    where to, out/packages by default
  --release N  the packages' own number within one version, 1 by default
  --only KIND  one of ${kinds.join(', ')}; repeatable
`;

const { values } = parseArgs({
  options: {
    out: { type: 'string', default: 'out/packages' },
    release: { type: 'string', default: '1' },
    only: { type: 'string', multiple: true, default: kinds },
    help: { type: 'boolean', default: false },
  },
});
const unknown = values.only.find((kind) => !kinds.includes(kind));
if (values.help || unknown !== undefined || !/^[1-9]\d*$/.test(values.release)) {
  (values.help ? process.stdout : process.stderr).write(usage);
  process.exit(values.help ? 0 : 1);
}
if (!existsSync('dist/agent.cjs')) throw new Error('dist is missing: run npm run build first');

const { version } = JSON.parse(readFileSync('package.json', 'utf8'));
const about = {
  // A version before another sorts below it in both kinds of package.
  version: version.replace('-', '~'),
  release: values.release,
  maintainer: 'The efs-agent authors <efs-agent@example.org>',
  /** The release of amazon-efs-utils whose command line, options and configuration are understood. */
  stoodInFor: '3.2.0',
  summary: 'mounts Amazon EFS file systems through its own TLS tunnel',
  description: [
    'Mount helper and agent for Amazon EFS: mount -t efs with TLS, IAM and access',
    'points, one agent for all mounts, and a local mount target to try it without AWS.',
    'Takes the place of amazon-efs-utils: the same options and configuration file.',
  ],
};
const epochSeconds = readEpochSeconds();
const work = mkdtempSync(join(tmpdir(), 'efs-package-'));
process.umask(0o022);
try {
  mkdirSync(values.out, { recursive: true });
  const names = values.only.map((kind) => {
    const [builder, processor] = kind.split(/-(.*)/);
    const name = builders[builder]({
      about,
      processor: processors[processor],
      work: join(work, kind),
      out: values.out,
      epochSeconds,
    });
    rmSync(join(work, kind), { recursive: true });
    process.stdout.write(`${join(values.out, name)}\n`);
    return name;
  });
  const bill = `efs-agent-${version}.cdx.json`;
  writeFileSync(join(values.out, bill), renderBillOfMaterials({ processor: null, epochSeconds }));
  const sums = [...names, bill].sort().map((name) => `${digest(join(values.out, name))}  ${name}\n`);
  writeFileSync(join(values.out, 'SHA256SUMS'), sums.join(''));
} finally {
  rmSync(work, { recursive: true, force: true });
}

/** The time of everything that is built: SOURCE_DATE_EPOCH, or that of the commit. */
function readEpochSeconds() {
  const given = process.env['SOURCE_DATE_EPOCH'];
  if (given !== undefined) return Number(given);
  const git = ['-c', 'safe.directory=*', 'log', '-1', '--format=%ct'];
  return Number(execFileSync('git', git, { encoding: 'utf8' }));
}

function digest(path) {
  return createHash('sha256').update(readFileSync(path)).digest('hex');
}
