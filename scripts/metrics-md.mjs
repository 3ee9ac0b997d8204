// Writes docs/metrics.md from the table of metrics; `--print` prints the page instead.
import { loadModule, writePage } from './page.mjs';

const { metrics, unitOf } = await loadModule('src/observe/metrics.ts');

const rows = Object.entries(metrics).map(
  ([name, { type, labels, help }]) =>
    `| \`${name}\` | ${type} | ${unitOf(name) ?? ''} | ${labels.map((label) => `\`${label}\``).join(', ')} | ${help} |`,
);

writePage('docs/metrics.md', [
  '# Metrics',
  '',
  'The agent serves `GET /metrics` on the socket `/run/efs-agent/metrics.sock`, which only root may use, and the group that',
  '`metrics_group` names. On TCP it does so only when `metrics_listen` is set: a port of 127.0.0.1, or an address and a port.',
  'Whoever reaches the port can read the metrics: names of file systems and mount points, and no secret.',
  '',
  '```sh',
  'curl --unix-socket /run/efs-agent/metrics.sock http://localhost/metrics',
  '```',
  '',
  '```ini',
  '[agent]',
  'metrics_listen = 9558',
  '```',
  '',
  '```yaml',
  'scrape_configs:',
  '  - job_name: efs-agent',
  '    static_configs: [{ targets: ["localhost:9558"] }]',
  '```',
  '',
  'A scraper gets the Prometheus text format, or OpenMetrics 1.0 if it asks for that. At most eight scrapes are answered at a time, and one that',
  'takes longer than ten seconds is hung up on. Values are those of the last second. Agents of other network namespaces have a socket each,',
  '`/run/efs-agent/netns/<number>/metrics.sock`.',
  '',
  'Labels: `mount` is the id of a mount as in the log and in `efs-agent status --json`; with `file_system` and `access_point` it makes one series for',
  'each mount and no more. `efs_mount_info` adds where it is mounted: `efs_mount_up * on (mount) group_left (mount_point) efs_mount_info`.',
  '`contrib/prometheus/efs-agent.rules.yml` has alert rules, `contrib/grafana/efs-agent.json` a dashboard.',
  '',
  'This page is made from `src/observe/metrics.ts` by `npm run docs`; a test compares the two.',
  '',
  '| name | type | unit | labels | meaning |',
  '|---|---|---|---|---|',
  ...rows,
  '',
]);
