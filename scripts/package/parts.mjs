// What is inside the bundles: the bill of materials (CycloneDX) and the licences of every part.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { runtime } from './runtime.mjs';

/**
 * The bill of materials as text: what the lock file says is used at run time, and the Node inside, if there is one.
 *
 * `npm sbom` makes it; what differs from run to run or from machine to machine is taken out.
 */
export function renderBillOfMaterials({ processor, epochSeconds }) {
  const words = ['sbom', '--package-lock-only', '--omit', 'dev', '--sbom-format', 'cyclonedx'];
  const bill = JSON.parse(execFileSync('npm', words, { encoding: 'utf8', maxBuffer: 1 << 26 }));
  const component = { ...bill.metadata.component, name: 'efs-agent', type: 'application' };
  bill.metadata = { timestamp: new Date(epochSeconds * 1000).toISOString(), component };
  delete bill.serialNumber;
  if (processor !== null) {
    bill.components.push(describeRuntime(processor));
    const own = bill.dependencies.find(({ ref }) => ref === component['bom-ref']);
    own.dependsOn.push(describeRuntime(processor)['bom-ref']);
  }
  bill.components.sort((one, other) => (one['bom-ref'] < other['bom-ref'] ? -1 : 1));
  bill.dependencies.sort((one, other) => (one.ref < other.ref ? -1 : 1));
  return `${JSON.stringify({ ...bill, serialNumber: nameByContent(bill) }, null, 2)}\n`;
}

function describeRuntime(processor) {
  const name = `node-linux-${processor}`;
  return {
    'bom-ref': `${name}@${runtime.version}`,
    type: 'application',
    name: 'node',
    version: runtime.version,
    scope: 'required',
    purl: `pkg:npm/${name}@${runtime.version}`,
    hashes: [
      {
        alg: 'SHA-512',
        content: Buffer.from(runtime.integrity[processor].split('-')[1], 'base64').toString('hex'),
      },
    ],
    licenses: [{ license: { id: runtime.licence } }],
  };
}

/** A name that is the same for the same content (RFC 9562 version 8). */
function nameByContent(bill) {
  const hex = createHash('sha256').update(JSON.stringify(bill)).digest('hex');
  return `urn:uuid:${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

/**
 * The licences of everything that is bundled, each text once, under the names of those that have it.
 *
 * Errors: when a package has no licence text.
 */
export function renderLicences(runtimeLicence) {
  const { packages } = JSON.parse(readFileSync('package-lock.json', 'utf8'));
  const owners = new Map();
  for (const [path, { dev, version }] of Object.entries(packages)) {
    if (path === '' || dev || !existsSync(path)) continue;
    const name = `${path.split('node_modules/').at(-1)} ${version}`;
    const text = readLicence(path).trim();
    owners.set(text, [...(owners.get(text) ?? []), name]);
  }
  const parts = [...owners].map(([text, names]) => `${names.sort().join('\n')}\n\n${text}`).sort();
  if (runtimeLicence !== null) parts.push(`Node.js ${runtime.version}\n\n${runtimeLicence.trim()}`);
  const rule = `\n\n${'-'.repeat(78)}\n\n`;
  return [
    'efs-agent',
    '',
    readFileSync('LICENSE', 'utf8').trim(),
    `${rule}These parts are inside efs-agent's programs, under the licences that follow them.`,
    `${rule}${parts.join(rule)}\n`,
  ].join('\n');
}

function readLicence(path) {
  const name = readdirSync(path).find((file) => /^(licen[cs]e|copying)/i.test(file));
  if (name !== undefined) return readFileSync(join(path, name), 'utf8');
  const { license, author } = JSON.parse(readFileSync(join(path, 'package.json'), 'utf8'));
  if (license === undefined) throw new Error(`${path} says nothing of its licence`);
  return `${license}${author === undefined ? '' : `, ${typeof author === 'string' ? author : author.name}`}`;
}
