import { parseBindReply } from '../../src/core/bind-call.ts';
import { listEffectiveSettings, parseConfig } from '../../src/core/config.ts';
import {
  createLineSplitter,
  parseAgentMessage,
  parseClientMessage,
} from '../../src/core/control-protocol.ts';
import { AgentError } from '../../src/core/errors.ts';
import { parseIni } from '../../src/core/ini.ts';
import { parseSocketLine } from '../../src/core/local-peer.ts';
import {
  formatOptions,
  parseHelperArgv,
  parseMountSpec,
  parseOptions,
  parseUmountArgv,
} from '../../src/core/mount-spec.ts';
import { formatMountState, parseMountState } from '../../src/core/mount-state.ts';
import {
  findNfsMounts,
  findTunnelMounts,
  type MountEntry,
  parseMountInfo,
} from '../../src/core/mountinfo.ts';
import { parseIpv6Addresses, parseRoutes } from '../../src/core/networks.ts';
import { CallLedger, RecordReader } from '../../src/core/rpc-record.ts';
import { parseWorkerMessage } from '../../src/core/worker-message.ts';
import { parseKeys, parseObject } from '../../src/identity/keys.ts';
import { checkClientCertificate } from '../../src/target/client-certificate.ts';
import { parsePolicy } from '../../src/target/policy.ts';

/** Takes bytes from somebody hostile; whatever it throws is a crash. */
export type Target = (bytes: Buffer) => void;
export type AsyncTarget = (bytes: Buffer) => Promise<void>;

/** Runs what may refuse its input, and only in the way it says it does. */
function allowing(run: () => void): void {
  try {
    run();
  } catch (error) {
    if (!(error instanceof AgentError) || error.code === 'internal') throw error;
  }
}

function demand(holds: boolean, what: string): void {
  if (!holds) throw new Error(what);
}

/** What is not JSON is no input of the code behind it. */
function readJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

export const targets: Record<string, Target> = {
  options: (bytes) =>
    allowing(() => {
      const options = parseOptions(bytes.toString());
      const again = parseOptions(formatOptions(options));
      demand(again.length === options.length, 'options change when they are written and read again');
      parseMountSpec('fs-0123456789abcdef0:/x', options);
    }),
  device: (bytes) => allowing(() => void parseMountSpec(bytes.toString(), parseOptions('tls'))),
  argv: (bytes) => {
    const words = bytes.toString().split('\n');
    allowing(() => void parseHelperArgv(words));
    allowing(() => void parseUmountArgv(words));
  },
  config: (bytes) => {
    const text = bytes.toString();
    allowing(() => void parseIni(text, 'a'));
    allowing(() => void parseConfig([{ path: 'a', text }]));
    allowing(() => void listEffectiveSettings([{ path: 'a', text }]));
  },
  control: (bytes) => {
    const split = createLineSplitter();
    allowing(() => {
      for (const line of [
        ...split(bytes.subarray(0, bytes.length >> 1)),
        ...split(bytes.subarray(bytes.length >> 1)),
      ])
        allowing(() => void parseClientMessage(line));
    });
    allowing(() => void parseAgentMessage(bytes.toString()));
  },
  worker: (bytes) => allowing(() => void parseWorkerMessage(readJson(bytes.toString()))),
  records: (bytes) => {
    const whole = new RecordReader();
    const inBytes = new RecordReader();
    const ledger = new CallLedger();
    let at = 0;
    while (at < bytes.length && !whole.lost) {
      const next = whole.advance(bytes, at);
      demand(next > at && next <= bytes.length, 'the reader of records does not advance');
      if (whole.headIsNew) ledger.sending(whole.xid, whole.isCall, 1);
      if (whole.atBoundary) ledger.received(whole.xid, false);
      at = next;
    }
    for (let byte = 0; byte < bytes.length && !inBytes.lost; byte += 1)
      inBytes.advance(bytes.subarray(byte, byte + 1), 0);
    demand(
      whole.lost === inBytes.lost &&
        (whole.lost || (whole.atBoundary === inBytes.atBoundary && whole.xid === inBytes.xid)),
      'the reader of records sees something else byte by byte',
    );
    demand(ledger.oldestTicks(1) >= 0, 'a call from the future');
  },
  bind: (bytes) => {
    for (const form of ['current', 'former'] as const)
      allowing(() => {
        const reply = parseBindReply(form, 0x1020_3040, bytes);
        demand(reply === null || typeof reply.kind === 'string', 'a reply of no kind');
      });
  },
  certificate: (bytes) => {
    const verdict = checkClientCertificate(bytes, {
      region: 'us-east-1',
      nowMs: Date.UTC(2024, 4, 6, 7, 8, 9),
      findCredentials: () => undefined,
    });
    demand(verdict.kind !== 'signed', 'a signature by nobody');
  },
  policy: (bytes) => allowing(() => void parsePolicy(bytes.toString())),
  mountinfo: (bytes) => {
    let entries: MountEntry[];
    try {
      entries = parseMountInfo(bytes.toString());
    } catch (error) {
      // The kernel writes these lines: another shape is a defect, and says so.
      demand(error instanceof AgentError, 'no error of ours');
      return;
    }
    findTunnelMounts(entries, 20_049);
    findNfsMounts(entries, '/mnt');
  },
  state: (bytes) => {
    const reading = parseMountState(bytes.toString());
    if (reading.kind === 'ok')
      demand(
        parseMountState(formatMountState(reading.state)).kind === 'ok',
        'a state that cannot be read again',
      );
  },
  metadata: (bytes) => {
    const text = bytes.toString();
    allowing(() => void parseObject(text));
    allowing(() => void parseKeys(text));
  },
  kernel: (bytes) => {
    const text = bytes.toString();
    for (const line of text.split('\n')) parseSocketLine(line)?.readOwner();
    parseRoutes(text, 'LE');
    parseIpv6Addresses(text);
  },
};
