import { constants } from 'node:crypto';
import { isIPv6 } from 'node:net';
import tls from 'node:tls';
import { AgentError, type FaultCode, faults } from '../core/errors.ts';
import { startPatience } from '../core/patience.ts';
import type { Endpoint, TlsMaterial, UpstreamFacts } from '../core/worker-protocol.ts';

/** An address that has not connected after this long gets company from the next one. */
const staggerMs = 250;
const keepAliveMs = 15_000;
const mostNameLength = 256;
/** OpenSSL hands out at most one record of plain text at a time. */
export const recordBytes = 16 * 1024;

/** Source: specification 2.1, the default policy without its CBC suites. */
const cipherSuites = [
  'TLS_AES_128_GCM_SHA256',
  'TLS_AES_256_GCM_SHA384',
  'TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305',
  // Keys and signatures of less than 112 bits of strength are refused: RSA below 2048 bits, SHA-1.
  '@SECLEVEL=2',
].join(':');

const untrustedCodes = new Set([
  'CERT_CHAIN_TOO_LONG',
  'CERT_REJECTED',
  'CERT_SIGNATURE_FAILURE',
  'CERT_UNTRUSTED',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'INVALID_CA',
  'INVALID_PURPOSE',
  'PATH_LENGTH_EXCEEDED',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  // Node's word for reasons of OpenSSL that it has no word for: no authority, or a key or signature that is too weak.
  'UNSPECIFIED',
]);
const closedCodes = new Set(['ECONNRESET', 'ECONNABORTED', 'EPIPE']);

let latestAnonymous: { rootsPem: readonly string[]; context: tls.SecureContext } | null = null;

/**
 * Prepares a tunnel's trust anchors and client certificate, to be used by all its connections. Tunnels without a client
 * certificate that trust the same roots share what OpenSSL keeps of them: 7 KiB for each root, and 12 besides.
 *
 * Errors: `tls.failed` when OpenSSL cannot read one of the PEM texts.
 */
export function createTunnelContext(material: TlsMaterial): tls.SecureContext {
  if (material.client !== null) return createContext(material);
  const { trustedRootsPem } = material;
  const { rootsPem, context } = latestAnonymous ?? {};
  const isSame =
    rootsPem?.length === trustedRootsPem.length && rootsPem.every((pem, at) => pem === trustedRootsPem[at]);
  if (context !== undefined && isSame) return context;
  latestAnonymous = { rootsPem: trustedRootsPem, context: createContext(material) };
  return latestAnonymous.context;
}

function createContext(material: TlsMaterial): tls.SecureContext {
  try {
    return tls.createSecureContext({
      ca: material.trustedRootsPem,
      minVersion: 'TLSv1.2',
      maxVersion: 'TLSv1.3',
      ciphers: cipherSuites,
      ecdhCurve: 'P-256:X25519:P-384:P-521',
      secureOptions: constants.SSL_OP_NO_RENEGOTIATION,
      ...(material.client === null
        ? {}
        : { cert: material.client.certificatePem, key: material.client.privateKeyPem }),
    });
  } catch (thrown) {
    throw new AgentError(
      'tls.failed',
      `cannot use the certificates of the tunnel to ${material.serverName}: ${reasonOf(thrown)}`,
      { serverName: material.serverName },
      thrown,
    );
  }
}

/** A finished TLS connection to a mount target. */
export class Upstream {
  readonly socket: tls.TLSSocket;
  readonly facts: UpstreamFacts;
  /** What the TLS handshake took. */
  readonly handshakeMs: number;
  readonly #reader: Reader;

  constructor(socket: tls.TLSSocket, facts: UpstreamFacts, handshakeMs: number, reader: Reader) {
    this.socket = socket;
    this.facts = facts;
    this.handshakeMs = handshakeMs;
    this.#reader = reader;
  }

  /**
   * Says who gets the decrypted bytes from now on. Returning false pauses the socket, though what OpenSSL has
   * decrypted by then still arrives.
   *
   * @param room asked after each call where the next bytes shall be put; null = where they are only there during the call.
   */
  readInto(receive: (bytes: Uint8Array) => boolean, room: () => Uint8Array | null = () => null): void {
    this.#reader.receive = receive;
    this.#reader.room = room;
  }
}

export interface DialRequest {
  endpoints: readonly Endpoint[];
  serverName: string;
  secureContext: tls.SecureContext;
  /**
   * For everything together; connecting to one address may take half of it, and so may its TLS handshake while another
   * address waits.
   */
  timeoutMs: number;
  signal: AbortSignal;
  /** An address has accepted the connection. */
  connected?: () => void;
}

/**
 * Connects to the first endpoint that finishes TCP and TLS and proves its name.
 *
 * Endpoints are tried in order; the next one starts when one has failed, or has not connected after 250 ms.
 *
 * Errors: `target.refused`, `target.silent`, `target.unreachable`, `target.closed`, `tls.name-mismatch`,
 * `tls.expired`, `tls.untrusted`, `tls.failed`: of the attempt that got furthest. `interrupted` when the signal
 * is aborted.
 * Source: specification 2.1 to 2.4; RFC 8305 section 5 for the delay between attempts.
 */
export function dialUpstream(request: DialRequest): Promise<Upstream> {
  return new Promise((resolve, reject) => {
    const attempts = new Set<Attempt>();
    const failures: AgentError[] = [];
    const waiting = [...request.endpoints];
    let stagger: NodeJS.Timeout | undefined;

    const finish = (): void => {
      deadline.cancel();
      clearTimeout(stagger);
      request.signal.removeEventListener('abort', abort);
      for (const attempt of attempts) attempt.abandon();
    };
    const fail = (error: AgentError): void => {
      finish();
      reject(error);
    };
    const abort = (): void => fail(new AgentError('interrupted', 'the connection is not wanted any more'));
    const startNext = (): void => {
      clearTimeout(stagger);
      const endpoint = waiting.shift();
      if (endpoint === undefined) return;
      const attempt = new Attempt(request, endpoint, {
        connected: () => {
          clearTimeout(stagger);
          request.connected?.();
        },
        isLast: () => waiting.length === 0,
        secured: (upstream) => {
          attempts.delete(attempt);
          finish();
          resolve(upstream);
        },
        failed: (error) => {
          attempts.delete(attempt);
          failures.push(error);
          if (waiting.length > 0) startNext();
          else if (attempts.size === 0) fail(furthest(failures));
        },
      });
      attempts.add(attempt);
      if (waiting.length > 0) stagger = setTimeout(startNext, staggerMs);
    };

    const deadline = startPatience(schedule, request.timeoutMs, () => {
      for (const attempt of attempts) failures.push(attempt.silence(request.timeoutMs));
      fail(furthest(failures));
    });
    request.signal.addEventListener('abort', abort);
    if (request.signal.aborted) abort();
    else if (waiting.length === 0) {
      fail(new AgentError('target.unreachable', `no address is known for ${request.serverName}`));
    } else startNext();
  });
}

/**
 * Translates what a socket of ours reports into the fault table.
 *
 * @param where the endpoint as a person writes it, address and port.
 * @param elapsedMs since the attempt began.
 * @param certificate what the server presented, if it got that far.
 */
export function translateDialError(
  thrown: unknown,
  context: {
    where: string;
    serverName: string;
    elapsedMs: number;
    certificate: tls.PeerCertificate | null;
    nowMs: number;
  },
): AgentError {
  const { where, serverName, elapsedMs, certificate } = context;
  const code = codeOf(thrown);
  const details = { endpoint: where, serverName, elapsedMs, cause: code };
  const say = (fault: FaultCode, message: string): AgentError =>
    new AgentError(fault, message, details, thrown);

  if (code === 'ECONNREFUSED')
    return say('target.refused', `${where} refused the connection after ${elapsedMs} ms`);
  if (code === 'ETIMEDOUT') return say('target.silent', `${where} did not answer within ${elapsedMs} ms`);
  if (closedCodes.has(code)) {
    return say(
      'target.closed',
      `${where} closed the connection during the TLS handshake, after ${elapsedMs} ms`,
    );
  }
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') {
    return say(
      'tls.name-mismatch',
      `${where} presented a certificate for ${namesOf(certificate ?? certificateOf(thrown))}, not for ${serverName}`,
    );
  }
  if (code === 'CERT_HAS_EXPIRED' || code === 'CERT_NOT_YET_VALID') {
    const life =
      certificate === null ? '' : `: it is valid from ${certificate.valid_from} to ${certificate.valid_to}`;
    return say(
      'tls.expired',
      `${where} presented a certificate that ${code === 'CERT_HAS_EXPIRED' ? 'has expired' : 'is not valid yet'}${life}, ` +
        `and the time here is ${new Date(context.nowMs).toUTCString()}`,
    );
  }
  if (untrustedCodes.has(code)) {
    const issuer = certificate === null ? 'an unknown issuer' : renderName(certificate.issuer);
    return say(
      'tls.untrusted',
      `${where} presented a certificate issued by ${issuer}, which no trusted root vouches for (${code})`,
    );
  }
  if (code.startsWith('E') && !code.startsWith('ERR_') && code !== 'EPROTO') {
    return say('target.unreachable', `cannot reach ${where} after ${elapsedMs} ms (${code})`);
  }
  return say(
    'tls.failed',
    `the TLS handshake with ${where} failed after ${elapsedMs} ms: ${reasonOf(thrown)}`,
  );
}

/** An endpoint as a person writes it: `10.1.1.6:2049`, `[fd00::6]:2049`. */
export function renderEndpoint(endpoint: Endpoint): string {
  return isIPv6(endpoint.address)
    ? `[${endpoint.address}]:${endpoint.port}`
    : `${endpoint.address}:${endpoint.port}`;
}

interface Reader {
  receive: (bytes: Uint8Array) => boolean;
  room: () => Uint8Array | null;
}

interface AttemptEvents {
  connected(): void;
  /** No other address waits to be tried. */
  isLast(): boolean;
  secured(upstream: Upstream): void;
  failed(error: AgentError): void;
}

/** TCP and TLS with one endpoint. Reports once, and nothing after `abandon`. */
class Attempt {
  readonly #request: DialRequest;
  readonly #endpoint: Endpoint;
  readonly #startedMonoMs = performance.now();
  readonly #socket: tls.TLSSocket;
  readonly #events: AttemptEvents;
  #connectedMonoMs: number | null = null;
  #phaseDeadline: { cancel(): void };
  #certificate: tls.PeerCertificate | null = null;
  #over = false;

  constructor(request: DialRequest, endpoint: Endpoint, events: AttemptEvents) {
    this.#request = request;
    this.#endpoint = endpoint;
    this.#events = events;
    const reader: Reader = { receive: () => true, room: () => null };
    const options: tls.ConnectionOptions & { allowHalfOpen: boolean; onread: unknown } = {
      host: endpoint.address,
      port: endpoint.port,
      servername: request.serverName,
      secureContext: request.secureContext,
      rejectUnauthorized: true,
      allowHalfOpen: true,
      onread: {
        // The one that all connections share is copied out of before anything else can be read.
        buffer: (): Uint8Array => reader.room() ?? plainText,
        callback: (bytes: number, buffer: Uint8Array): boolean => reader.receive(buffer.subarray(0, bytes)),
      },
    };
    const socket = tls.connect(options);
    this.#socket = socket;
    this.#phaseDeadline = this.#allowHalf();
    socket.setNoDelay(true);
    socket.setKeepAlive(true, keepAliveMs);
    socket.once('connect', () => {
      if (this.#over) return;
      this.#connectedMonoMs = performance.now();
      this.#phaseDeadline.cancel();
      this.#phaseDeadline = this.#allowHalf();
      events.connected();
    });
    // Not a documented event. Only the wording of an error depends on it: once node has rejected a
    // certificate, the socket no longer tells what was in it.
    socket.prependOnceListener('secure', () => {
      this.#certificate = socket.getPeerCertificate();
    });
    socket.once('secureConnect', () => {
      if (!this.#end()) return;
      // The error listener stays: an error that comes before the new owner listens must not end the process.
      socket.off('close', onClose);
      // That listener keeps this attempt, for days; errors of the handshake are over.
      this.#certificate = null;
      const handshakeMs = performance.now() - (this.#connectedMonoMs ?? this.#startedMonoMs);
      events.secured(new Upstream(socket, readFacts(socket, endpoint), handshakeMs, reader));
    });
    const onError = (error: Error): void => this.#fail(error);
    // A server that says goodbye in the middle of the handshake makes no error of its own.
    const onClose = (): void => this.#fail(Object.assign(new Error('closed'), { code: 'ECONNRESET' }));
    socket.on('error', onError).on('close', onClose);
  }

  /** The error for an attempt that is still waiting. */
  silence(waitedMs: number): AgentError {
    const where = renderEndpoint(this.#endpoint);
    const message =
      this.#connectedMonoMs === null
        ? `${where} did not answer within ${waitedMs} ms`
        : `${where} accepted the connection and did not finish the TLS handshake within ${waitedMs} ms`;
    return new AgentError('target.silent', message, {
      endpoint: where,
      serverName: this.#request.serverName,
      elapsedMs: waitedMs,
      connected: this.#connectedMonoMs !== null,
    });
  }

  abandon(): void {
    if (this.#end()) this.#socket.destroy();
  }

  #allowHalf(): { cancel(): void } {
    const halfMs = Math.ceil(this.#request.timeoutMs / 2);
    return startPatience(schedule, halfMs, () => {
      // It has answered, and there is nothing better to do than to wait for the rest.
      if (this.#connectedMonoMs !== null && this.#events.isLast()) return;
      const error = this.silence(halfMs);
      if (!this.#end()) return;
      this.#socket.destroy();
      this.#events.failed(error);
    });
  }

  #fail(thrown: Error): void {
    if (!this.#end()) return;
    this.#socket.destroy();
    this.#events.failed(
      translateDialError(thrown, {
        where: renderEndpoint(this.#endpoint),
        serverName: this.#request.serverName,
        elapsedMs: Math.round(performance.now() - this.#startedMonoMs),
        certificate: this.#certificate,
        nowMs: Date.now(),
      }),
    );
  }

  /** True the first time. */
  #end(): boolean {
    if (this.#over) return false;
    this.#over = true;
    this.#phaseDeadline.cancel();
    return true;
  }
}

export function schedule(delayMs: number, run: () => void): { cancel(): void } {
  const timer = setTimeout(run, delayMs);
  return { cancel: () => clearTimeout(timer) };
}

const plainText = Buffer.allocUnsafeSlow(recordBytes);

/** The failure that tells most: TLS before TCP, an answer before silence, the earlier endpoint before the later. */
function furthest(failures: readonly AgentError[]): AgentError {
  const rank = (error: AgentError): number => {
    if (faults[error.code].layer === 'tls') return 4;
    if (error.code === 'target.closed') return 3;
    if (error.details['connected'] === true) return 2;
    return error.code === 'target.silent' ? 0 : 1;
  };
  return failures.reduce((best, error) => (rank(error) > rank(best) ? error : best));
}

function readFacts(socket: tls.TLSSocket, endpoint: Endpoint): UpstreamFacts {
  const certificate = socket.getPeerCertificate();
  return {
    address: endpoint.address,
    port: endpoint.port,
    tlsVersion: socket.getProtocol() ?? 'unknown',
    cipher: socket.getCipher().standardName,
    subject: renderName(certificate.subject),
    issuer: renderName(certificate.issuer),
    certificateExpiresAtMs: Date.parse(certificate.valid_to),
  };
}

function renderName(name: tls.Certificate | undefined): string {
  return shorten(
    Object.entries(name ?? {})
      .map(([attribute, value]) => `${attribute}=${Array.isArray(value) ? value.join('+') : value}`)
      .join(', '),
  );
}

function namesOf(certificate: tls.PeerCertificate | null): string {
  if (certificate === null) return 'another name';
  const { subjectaltname, subject } = certificate;
  return subjectaltname === undefined ? renderName(subject) : shorten(subjectaltname.replaceAll('DNS:', ''));
}

/** Names in a certificate are as long as the server likes. */
function shorten(text: string): string {
  return text.length <= mostNameLength ? text : `${text.slice(0, mostNameLength)}…`;
}

function certificateOf(thrown: unknown): tls.PeerCertificate | null {
  return (thrown as { cert?: tls.PeerCertificate }).cert ?? null;
}

function codeOf(thrown: unknown): string {
  const code = (thrown as NodeJS.ErrnoException | null)?.code;
  return typeof code === 'string' ? code : 'unknown';
}

function reasonOf(thrown: unknown): string {
  const { reason, message } = thrown as { reason?: string; message?: string };
  return reason ?? message ?? String(thrown);
}
