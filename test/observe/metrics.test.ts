import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { events } from '../../src/core/events.ts';
import {
  chooseFormat,
  type MetricsSource,
  metrics,
  renderMetrics,
  unitOf,
} from '../../src/observe/metrics.ts';
import { statusOf } from '../helper/stage.ts';

const names = Object.keys(metrics);

function sourceOf(...changes: Parameters<typeof statusOf>[1][]): MetricsSource {
  const status = statusOf('/mnt/efs');
  return {
    status: { ...status, mounts: changes.flatMap((change) => statusOf('/mnt/efs', change).mounts) },
    events: new Map([['session.closed', 3]]),
    usage: { agent: { cpuSeconds: 1.25, residentBytes: 52_428_800 } },
  };
}

const odd = sourceOf(
  { mountId: 'a"b\\c\nd', mountPoint: '/mnt/ü "x"\\', accessPointId: 'fsap-1' },
  { mountId: 'm2', tls: false, port: null, mountPoint: null, address: null, tlsVersion: null, cipher: null },
  {
    mountId: 'm3',
    state: 'stalled',
    lastError: { code: 'nfs.timeout', message: '', details: {}, atMs: 1_500 },
  },
);

test('the text that Prometheus reads has every value of a mount', () => {
  const text = renderMetrics(sourceOf({}), 'text');
  const labels = 'mount="m1",file_system="fs-0123456789abcdef0",access_point=""';

  expect(text).toContain('# TYPE efs_mount_sent_bytes_total counter\n');
  expect(text).toContain(`efs_mount_sent_bytes_total{${labels}} 12345678\n`);
  expect(text).toContain(`efs_mount_oldest_request_age_seconds{${labels}} 1\n`);
  expect(text).toContain(`efs_mount_up{${labels}} 1\n`);
  expect(text).toContain(
    `efs_mount_info{${labels},mount_point="/mnt/efs",address="10.1.1.6",tls_version="TLSv1.3",cipher="TLS_AES_256_GCM_SHA384"} 1\n`,
  );
  expect(text).toContain('efs_agent_mounts{state="mounted"} 1\n');
  expect(text).toContain('efs_agent_events_total{event="session.closed"} 3\n');
  expect(text).toContain('efs_agent_process_cpu_seconds_total{process="agent"} 1.25\n');
  expect(text).not.toContain('# EOF');
});

test('a mount that waits for its mount target is not up, and one without a tunnel has no counters', () => {
  const text = renderMetrics(odd, 'text');

  expect(text).toContain('efs_mount_up{mount="m3",file_system="fs-0123456789abcdef0",access_point=""} 0\n');
  expect(text).toContain('efs_mount_up{mount="m2"');
  expect(text).not.toContain('efs_mount_sent_bytes_total{mount="m2"');
  expect(text.match(/efs_mount_last_error_timestamp_seconds\{.*/g)).toEqual([
    expect.stringMatching(/ 1\.5$/),
  ]);
});

/** What the OpenMetrics parser of the Prometheus project finds: families and samples. */
function readOpenMetrics(text: string): {
  families: Record<string, [string, string]>;
  labels: Record<string, string>[];
} {
  const program = `import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
found = list(parse(sys.stdin.read()))
print(json.dumps({'families': {f.name: [f.type, f.unit] for f in found}, 'labels': [s.labels for f in found for s in f.samples]}))`;
  return JSON.parse(execFileSync('/usr/bin/python3', ['-c', program], { input: text, encoding: 'utf8' }));
}

test('the OpenMetrics page is valid for the parser of the Prometheus project, whatever a mount is called', () => {
  const { families, labels } = readOpenMetrics(renderMetrics(odd, 'openmetrics'));

  for (const [name, { type }] of Object.entries(metrics))
    expect(families[name.replace(/_total$/, '')], name).toEqual([type, unitOf(name) ?? '']);
  expect(labels).toContainEqual(expect.objectContaining({ mount: 'a"b\\c\nd', mount_point: '/mnt/ü "x"\\' }));
});

test('the OpenMetrics page of an agent without mounts is valid too, and promtool has no complaint where it is installed', () => {
  const promtool = (process.env['PATH'] ?? '')
    .split(delimiter)
    .map((folder) => join(folder, 'promtool'))
    .find(existsSync);
  const none = { ...odd, status: { ...odd.status, mounts: [] } };

  expect(Object.keys(readOpenMetrics(renderMetrics(none, 'openmetrics')).families)).toHaveLength(
    names.length,
  );
  if (promtool !== undefined) {
    execFileSync(promtool, ['check', 'metrics'], { input: renderMetrics(odd, 'text') });
    execFileSync(promtool, ['check', 'rules', 'contrib/prometheus/efs-agent.rules.yml']);
  }
});

test('each mount has one series of a metric, and labels have no other source than mounts, events and states', () => {
  const text = renderMetrics(odd, 'text');
  const series = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  const keys = series.map((line) => line.slice(0, line.lastIndexOf(' ')));

  expect(new Set(keys).size).toBe(keys.length);
  expect(series.filter((line) => line.startsWith('efs_agent_events_total'))).toHaveLength(
    Object.keys(events).length,
  );
  fc.assert(
    fc.property(fc.array(fc.string(), { maxLength: 5 }), (unknown) => {
      const counts = new Map(unknown.map((name) => [name, 1]));
      const lines = renderMetrics({ ...odd, events: counts }, 'text').split('\n');

      expect(lines).toHaveLength(text.split('\n').length);
    }),
  );
});

test('a scraper that accepts OpenMetrics gets it, any other the text format', () => {
  expect(chooseFormat('application/openmetrics-text;version=1.0.0,text/plain;q=0.5')).toBe('openmetrics');
  expect(chooseFormat('text/plain')).toBe('text');
  expect(chooseFormat(undefined)).toBe('text');
});

test('names say what they are: a counter ends with _total, and what has a unit with it', () => {
  for (const [name, { type, labels, help }] of Object.entries(metrics)) {
    expect(name).toMatch(/^efs_(agent|mount)_[a-z_]+$/);
    expect(name.endsWith('_total'), name).toBe(type === 'counter');
    expect(help, name).toMatch(/^[A-Z0-9].*\.$/);
    for (const label of labels) expect(label).toMatch(/^[a-z][a-z_]*$/);
  }
});

test('docs/metrics.md is what the table of metrics makes of it, a row for each', () => {
  const page = execFileSync(process.execPath, ['scripts/metrics-md.mjs', '--print'], { encoding: 'utf8' });

  expect(readFileSync('docs/metrics.md', 'utf8')).toBe(page);
  expect((page.match(/^\| `efs_.*/gm) ?? []).map((row) => row.split('`')[1])).toEqual(names);
});

/** Every metric, label and event that an expression of PromQL names. */
function checkExpression(expression: string): void {
  for (const [name] of expression.matchAll(/\befs_[a-z_]+/g)) expect(names, expression).toContain(name);
  for (const [, name, matchers] of expression.matchAll(/\b(efs_[a-z_]+)\{([^}]*)\}/g)) {
    for (const [, label, value] of matchers!.matchAll(/([a-z_]+)=~?"([^"]*)"/g)) {
      if (label !== 'instance') expect(metrics[name!]!.labels, expression).toContain(label);
      if (label === 'event')
        for (const event of value!.split('|')) expect(Object.keys(events)).toContain(event);
    }
  }
}

test('every panel and variable of the dashboard uses metrics and labels that there are', () => {
  const dashboard = JSON.parse(readFileSync('contrib/grafana/efs-agent.json', 'utf8'));
  const expressions = dashboard.panels.flatMap((panel: { targets: { expr: string }[] }) =>
    panel.targets.map(({ expr }) => expr),
  );
  const queries = dashboard.templating.list
    .map(({ query }: { query: string | { query: string } }) =>
      typeof query === 'string' ? query : query.query,
    )
    .filter((query: string) => query.includes('efs_'));

  expect(expressions.length).toBeGreaterThanOrEqual(dashboard.panels.length);
  expect(queries.length).toBeGreaterThan(1);
  for (const expression of [...expressions, ...queries]) {
    expect(expression).toMatch(/\befs_/);
    checkExpression(expression);
  }
  for (const [, variable] of JSON.stringify(dashboard).matchAll(/\$\{?([a-z_]+)/g)) {
    const known = dashboard.templating.list.map(({ name }: { name: string }) => name);
    expect([...known, '__rate_interval']).toContain(variable);
  }
});

test('every alert rule uses metrics, labels and events that there are', () => {
  const rules = readdirSync('contrib/prometheus').map((name) =>
    readFileSync(join('contrib/prometheus', name), 'utf8'),
  );
  const expressions = rules.flatMap((text) =>
    [...text.matchAll(/^ +expr: (.*)$/gm)].map((match) => match[1]!),
  );

  expect(expressions.length).toBeGreaterThan(6);
  for (const expression of expressions) checkExpression(expression);
});
