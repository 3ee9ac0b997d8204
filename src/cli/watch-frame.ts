import type { MountReport, StatusReport } from '../core/status-report.ts';
import { type Column, cutEnd, layOut } from './columns.ts';
import type { Colour } from './paragraph.ts';
import { describeAgent, describeMount, formatBytes } from './render.ts';
import { drawSparkline, type WatchHistory } from './watch-history.ts';

/** What a frame shows. */
export interface WatchView {
  report: StatusReport;
  history: WatchHistory;
  columns: number;
  rows: number;
  /** Mounts that are scrolled past. */
  skipped: number;
  order: 'opened' | 'busiest';
  intervalMs: number;
  nowMs: number;
  paint: (colour: Colour, text: string) => string;
}

/** Lines of a frame that are no mounts: agent, totals, a blank one, titles, keys. */
const otherLines = 5;
/** From here on the address has a column of its own, and the trend is longer. */
const wideColumns = 110;

/** How many mounts a frame has place for. */
export function countPlaces(rows: number): number {
  return Math.max(1, rows - otherLines);
}

/** The lines of one frame: as many as the terminal has, and none is wider. */
export function renderFrame(view: WatchView): string[] {
  const { report, history, columns, rows, skipped, order, intervalMs, nowMs, paint } = view;
  const mounts = sortMounts(
    [report, ...report.otherNetworkNamespaces].flatMap((agent) => agent.mounts),
    view,
  );
  const places = countPlaces(rows);
  const shown = mounts.slice(skipped, skipped + places);
  const [titles, ...table] = layOut(
    columnsOf(columns),
    shown.map((mount) => rowOf(mount, history, columns)),
    columns,
  );
  const time = new Date(nowMs).toTimeString().slice(0, 8);
  const lines = [
    spread(describeAgent(report, nowMs), `every ${intervalMs / 1_000} s  ${time}`, columns),
    cutEnd(describeTotals(mounts, history), columns),
    '',
    paint('bold', titles!),
    ...table.map((line, at) => paintRow(line, shown[at]!, paint)),
  ];
  while (lines.length < rows - 1) lines.push('');
  const range = mounts.length > places ? `${skipped + 1}-${skipped + shown.length} of ${mounts.length}` : '';
  lines.push(paint('dim', spread(`q quit  s sort: ${order}  up/down scroll`, range, columns)));
  return lines.slice(0, rows);
}

function sortMounts(mounts: readonly MountReport[], { order, history }: WatchView): MountReport[] {
  if (order === 'opened') return [...mounts];
  const busyness = ({ mountId, requestsInFlight }: MountReport) => {
    const { up, down } = history.lastRateOf(mountId);
    return [up + down, requestsInFlight] as const;
  };
  return mounts.toSorted((one, other) => {
    const [rate, requests] = busyness(one);
    const [otherRate, otherRequests] = busyness(other);
    return otherRate - rate || otherRequests - requests;
  });
}

function columnsOf(width: number): Column[] {
  return [
    { title: 'FILE SYSTEM', align: 'left', least: 10 },
    { title: 'MOUNT POINT', align: 'left', least: 10 },
    ...(width >= wideColumns ? [{ title: 'ADDRESS', align: 'left', least: 10 } as const] : []),
    { title: 'STATE', align: 'left', least: null },
    { title: 'UP/s', align: 'right', least: null },
    { title: 'DOWN/s', align: 'right', least: null },
    { title: 'WAITING', align: 'right', least: null },
    { title: 'TREND', align: 'right', least: null },
  ];
}

function rowOf(mount: MountReport, history: WatchHistory, width: number): string[] {
  const { up, down } = history.lastRateOf(mount.mountId);
  const described = describeMount({
    ...mount,
    bytesUpPerSecond: Math.round(up),
    bytesDownPerSecond: Math.round(down),
  });
  const rates = history.ratesOf(mount.mountId).map((rate) => rate.up + rate.down);
  return [
    described.fileSystem,
    described.mountPoint,
    ...(width >= wideColumns ? [mount.address ?? ''] : []),
    mount.state,
    ...[described.up, described.down, described.waiting],
    drawSparkline(rates, width >= wideColumns ? 20 : 10),
  ];
}

function describeTotals(mounts: readonly MountReport[], history: WatchHistory): string {
  const states = new Map<string, number>();
  let [up, down, requests] = [0, 0, 0];
  for (const { mountId, state, requestsInFlight } of mounts) {
    states.set(state, (states.get(state) ?? 0) + 1);
    const rate = history.lastRateOf(mountId);
    up += rate.up;
    down += rate.down;
    requests += requestsInFlight;
  }
  const counted = [...states].map(([state, count]) => `${count} ${state}`);
  return [
    ...(counted.length === 0 ? ['no mounts'] : counted),
    `${formatBytes(Math.round(up))}/s up`,
    `${formatBytes(Math.round(down))}/s down`,
    `${requests} in flight`,
  ].join(', ');
}

function paintRow(line: string, { state }: MountReport, paint: WatchView['paint']): string {
  if (state === 'stalled' || state === 'unwatched') return paint('red', line);
  return state === 'mounted' || state === 'tunnel' ? line : paint('yellow', line);
}

/** One text on the left, one on the right if there is room for it. */
function spread(left: string, right: string, columns: number): string {
  const room = columns - left.length - right.length;
  return room < 1 ? cutEnd(left, columns) : `${left}${' '.repeat(room)}${right}`.trimEnd();
}
