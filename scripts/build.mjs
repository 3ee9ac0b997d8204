// Builds the bundles into dist/, or --out DIR: one file per process, no node_modules at run time. They say that they
// are of package.json's version, or --version TEXT.
import { execFile } from 'node:child_process';
import { chmodSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { parseArgs, promisify } from 'node:util';
import { build } from 'esbuild';

const { version, out } = parseArgs({
  options: {
    version: { type: 'string', default: JSON.parse(readFileSync('package.json', 'utf8')).version },
    out: { type: 'string', default: 'dist' },
  },
}).values;
const run = promisify(execFile);
const shared = {
  bundle: true,
  platform: 'node',
  target: 'node20.19',
  legalComments: 'none',
  minifySyntax: true,
  define: { __EFS_AGENT_VERSION__: JSON.stringify(version) },
  logLevel: 'warning',
};
// At SIGUSR1 Node opens a debugger on a TCP port, for every user of the machine: a listener of ours takes its place.
const deaf = `"use strict";process.listenerCount('SIGUSR1') || process.on('SIGUSR1', () => {});`;
// The second line of what a shell is asked to run: for it a command, for Node a text and a remark. Variables with which a caller
// could give Node other code, libraries or trust than its own are left out, and no core file can hold a secret.
const unwanted = [
  ...[
    'NODE_OPTIONS',
    'NODE_PATH',
    'NODE_EXTRA_CA_CERTS',
    'NODE_TLS_REJECT_UNAUTHORIZED',
    'NODE_V8_COVERAGE',
    'NODE_COMPILE_CACHE',
  ],
  ...[
    'NODE_REPL_EXTERNAL_MODULE',
    'NODE_REDIRECT_WARNINGS',
    'NODE_ICU_DATA',
    'NODE_DEBUG',
    'NODE_DEBUG_NATIVE',
    'NODE_USE_ENV_PROXY',
  ],
  ...[
    'OPENSSL_CONF',
    'OPENSSL_MODULES',
    'OPENSSL_ENGINES',
    'SSL_CERT_FILE',
    'SSL_CERT_DIR',
    'SSLKEYLOGFILE',
    'SSL_KEYLOGFILE',
    'UV_THREADPOOL_SIZE',
  ],
];
const prepare = `':' //; unset ${unwanted.join(' ')}; ulimit -c 0`;
const launch = `${prepare}; exec node "$0" "$@"\n`;
// An agent in the foreground stays for days as one of the service does: with the words of src/core/small-heap.ts.
const smallHeap = '--max-semi-space-size=1 --v8-pool-size=1';
const launchCommand = `${prepare}; small=; [ "$1" != agent ] || small='${smallHeap}'; exec node $small "$0" "$@"\n`;
// CommonJS starts a few milliseconds sooner and is what winston and node-forge are written in.
const processes = {
  'mount-efs': 'src/mount-efs.ts',
  agent: 'src/agent/main.ts',
  worker: 'src/tunnel/worker.ts',
  identity: 'src/identity/main.ts',
};

// The identity process needs the AWS SDK for few sources only: in files of its own it costs the others nothing.
const awsSdkApart = {
  name: 'aws-sdk-apart',
  setup: (bundler) => {
    bundler.onResolve({ filter: /^@aws-sdk\// }, ({ kind, path }) => {
      const name = awsSdkApartFrom[path] ?? 'aws-sdk';
      return kind === 'dynamic-import' ? { path: `./${name}.cjs`, external: true } : undefined;
    });
  },
};
// EC2 is larger than all others together, and asked for one thing by few; CloudWatch is off for most: each has a file of its own.
const awsSdkApartFrom = {
  '@aws-sdk/client-ec2': 'aws-sdk-ec2',
  '@aws-sdk/client-cloudwatch-logs': 'aws-sdk-cloudwatch',
};
const awsSdk = {
  'aws-sdk': `
export { EFSClient, DescribeMountTargetsCommand } from '@aws-sdk/client-efs';
export { STSClient, AssumeRoleWithWebIdentityCommand, GetCallerIdentityCommand } from '@aws-sdk/client-sts';
export { fromIni } from '@aws-sdk/credential-providers';
`,
  'aws-sdk-ec2': `
export { EC2Client, DescribeAvailabilityZonesCommand } from '@aws-sdk/client-ec2';
`,
  'aws-sdk-cloudwatch': `
export {
  CloudWatchLogsClient,
  CreateLogGroupCommand,
  CreateLogStreamCommand,
  DeleteRetentionPolicyCommand,
  PutLogEventsCommand,
  PutRetentionPolicyCommand,
} from '@aws-sdk/client-cloudwatch-logs';
`,
};

// Under the names by which the shells find them; what they know comes from the table that parses command lines.
const completions = { bash: 'efs-agent', zsh: '_efs-agent', fish: 'efs-agent.fish' };

// Built beside and put in place whole: a program that starts meanwhile finds the old or the new one.
const fresh = `${out}.new-${process.pid}`;
const stale = `${out}.old-${process.pid}`;
try {
  await Promise.all([
    ...Object.entries(processes).map(([name, entry]) =>
      build({
        ...shared,
        entryPoints: [entry],
        outfile: `${fresh}/${name}.cjs`,
        format: 'cjs',
        plugins: [awsSdkApart],
        banner: { js: name === 'mount-efs' ? `${launch}${deaf}` : deaf },
      }),
    ),
    ...Object.entries(awsSdk).map(([name, contents]) =>
      build({
        ...shared,
        stdin: { contents, resolveDir: '.' },
        outfile: `${fresh}/${name}.cjs`,
        format: 'cjs',
        // The SDK's ES modules drop what is not exported: a third smaller, and loaded in half the time.
        mainFields: ['module', 'main'],
      }),
    ),
    // yargs is an ES module only; splitting keeps each command's code out of the others' start-up.
    build({
      ...shared,
      entryPoints: { 'efs-agent': 'src/main.ts' },
      outdir: fresh,
      outExtension: { '.js': '.mjs' },
      format: 'esm',
      splitting: true,
      chunkNames: 'chunks/[name]-[hash]',
      banner: {
        js: `${launchCommand}import { createRequire as bundleRequire } from 'node:module'; const require = bundleRequire(import.meta.url);${deaf}`,
      },
    }),
  ]);
  for (const name of ['mount-efs.cjs', 'efs-agent.mjs']) chmodSync(`${fresh}/${name}`, 0o755);
  mkdirSync(`${fresh}/completions`);
  await Promise.all(
    Object.entries(completions).map(async ([shell, name]) => {
      const { stdout } = await run(process.execPath, [`${fresh}/efs-agent.mjs`, 'completion', shell]);
      writeFileSync(`${fresh}/completions/${name}`, stdout);
    }),
  );
  try {
    renameSync(out, stale);
  } catch {
    // The first build.
  }
  renameSync(fresh, out);
} finally {
  rmSync(fresh, { recursive: true, force: true });
  rmSync(stale, { recursive: true, force: true });
}
