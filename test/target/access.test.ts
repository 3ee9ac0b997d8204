import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type AccessQuestion, decideAccess } from '../../src/target/access.ts';
import type { CertificateVerdict } from '../../src/target/client-certificate.ts';

const [one, two] = ['fs-01', 'fs-02'];
const accessPointId = 'fsap-0123456789abcdef0';

const question: AccessQuestion = {
  connection: { connectionId: 'c', sourceIp: '127.0.0.1', sourcePort: 700, transport: 'tls' },
  account: { region: 'us-east-1', dnsSuffix: 'amazonaws.com', partition: 'aws', accountId: '111122223333' },
  verdict: null,
  serverName: null,
  listenerFileSystemId: null,
  fileSystemIds: [one, two],
  accessPoints: [{ id: accessPointId, fileSystemId: one, path: '/app', user: null, createMode: null }],
  policy: null,
};

const nameOf = (fileSystemId: string) => `${fileSystemId}.efs.us-east-1.amazonaws.com`;
const unsigned = (fileSystemId: string, accessPoint: string | null = null): CertificateVerdict => ({
  kind: 'unsigned',
  claims: { fileSystemId, accessPointId: accessPoint, clientInfo: [] },
});

function answer(changes: Partial<AccessQuestion>): string {
  const outcome = decideAccess({ ...question, ...changes });
  return outcome.kind === 'granted' ? outcome.fileSystemId : outcome.reason;
}

describe('the file system of a connection', () => {
  test('is the one that the certificate names', () => {
    expect(answer({ verdict: unsigned(two) })).toBe(two);
  });

  test('is the one of the server name when there is no certificate, with a zone or without', () => {
    expect(answer({ serverName: nameOf(two) })).toBe(two);
    expect(answer({ serverName: `use1-az1.${nameOf(two).toUpperCase()}` })).toBe(two);
  });

  test('is the one of the address for plain NFS', () => {
    expect(answer({ listenerFileSystemId: two })).toBe(two);
  });

  test('is the only one there is when nobody names any', () => {
    expect(answer({ fileSystemIds: [one] })).toBe(one);
    expect(answer({})).toBe('file-system-unknown');
  });

  test('must be the same in certificate, server name and address', () => {
    expect(answer({ verdict: unsigned(one), serverName: nameOf(two) })).toBe('file-system-mismatch');
    expect(answer({ verdict: unsigned(one), listenerFileSystemId: two })).toBe('file-system-mismatch');
    expect(answer({ serverName: nameOf(one), listenerFileSystemId: two })).toBe('file-system-mismatch');
  });

  test('must be here', () => {
    expect(answer({ verdict: unsigned('fs-03') })).toBe('file-system-unknown');
  });

  test('must have the access point', () => {
    expect(answer({ verdict: unsigned(one, accessPointId) })).toBe(one);
    expect(answer({ verdict: unsigned(two, accessPointId) })).toBe('access-point-unknown');
    expect(answer({ verdict: unsigned(one, 'fsap-00000000000000000') })).toBe('access-point-unknown');
  });
});

test('whatever else is true, a refused certificate and a denial by the policy grant nothing', () => {
  const someId = fc.constantFrom(null, one, two, 'fs-03');
  const refused: CertificateVerdict = { kind: 'refused', reason: 'expired', detail: '' };
  fc.assert(
    fc.property(
      someId,
      someId,
      fc.constantFrom(null, refused, unsigned(one), unsigned(two, accessPointId)),
      fc.boolean(),
      (named, listening, verdict, isEmptyPolicy) => {
        const outcome = decideAccess({
          ...question,
          verdict,
          serverName: named === null ? null : nameOf(named),
          listenerFileSystemId: listening,
          policy: isEmptyPolicy ? { statements: [] } : null,
        });

        if (isEmptyPolicy || verdict === refused) expect(outcome.kind).toBe('denied');
        if (outcome.kind === 'granted') expect(question.fileSystemIds).toContain(outcome.fileSystemId);
      },
    ),
  );
});
