import { BlockList, isIP } from 'node:net';
import { AgentError } from '../core/errors.ts';
import { readPolicyDocument } from './policy-document.ts';

/** What a file-system policy can grant to an NFS client. */
export const clientActions = ['ClientMount', 'ClientWrite', 'ClientRootAccess'] as const;
export type ClientAction = (typeof clientActions)[number];

/** Who connects: nobody in particular, or a session of an assumed role. */
export type Principal =
  | { kind: 'anonymous' }
  | {
      kind: 'assumed-role';
      accountId: string;
      /** `arn:aws:sts::<account>:assumed-role/<role>/<session>`. */
      sessionArn: string;
      /** `arn:aws:iam::<account>:role/<role>`. */
      roleArn: string;
    };

/** Everything a policy may ask about one connection. */
export interface AccessRequest {
  principal: Principal | { kind: 'user'; accountId: string; userArn: string };
  /** Null = the one the policy is attached to, whatever a Resource calls it. */
  fileSystemArn: string | null;
  accessPointArn: string | null;
  secureTransport: boolean;
  accessedViaMountTarget: boolean;
  /** IPv4 or IPv6 literal of the NFS client; null = not known. */
  sourceIp: string | null;
}

/** Which part of the policy decided about one action. */
export type DecidedBy =
  | { kind: 'no-policy' }
  | { kind: 'statement'; effect: 'Allow' | 'Deny'; name: string; line: number }
  | { kind: 'no-statement' }
  /** The action itself is allowed, and means nothing without ClientMount. */
  | { kind: 'mount-not-allowed' };

export interface Decision {
  permissions: Record<ClientAction, boolean>;
  decidedBy: Record<ClientAction, DecidedBy>;
}

/** A parsed file-system policy. */
export interface Policy {
  statements: readonly Statement[];
}

interface Statement {
  /** The `Sid`, or `statement <n>` counted from 1. */
  name: string;
  /** Where it begins in the text, from 1. */
  line: number;
  effect: 'Allow' | 'Deny';
  principals: readonly PrincipalPattern[];
  actions: { negated: boolean; patterns: readonly string[] };
  /** Null = the file system the policy is attached to. */
  resources: readonly string[] | null;
  conditions: readonly Condition[];
}

type PrincipalPattern =
  | { kind: 'everyone' }
  | { kind: 'account'; accountId: string }
  | { kind: 'arn'; arn: string };

interface Condition {
  key: ConditionKey;
  operator: Operator;
  ifExists: boolean;
  values: readonly string[];
}

interface Operator {
  negated: boolean;
  matches: (value: string, pattern: string) => boolean;
  /** What is wrong with a value in the policy, or null. */
  objection: (pattern: string) => string | null;
}

const anyText = () => null;
const arnText = (pattern: string) =>
  pattern === '*' || pattern.split(':').length >= 6 ? null : 'is not an ARN of six parts';
const booleanText = (pattern: string) =>
  /^(true|false)$/i.test(pattern) ? null : 'is neither true nor false';
const addressText = (pattern: string) =>
  parseNetwork(pattern) === null ? 'is not an address or network' : null;

const same = (value: string, pattern: string) => value === pattern;
const sameIgnoringCase = (value: string, pattern: string) => value.toLowerCase() === pattern.toLowerCase();

const operators: Readonly<Record<string, Operator>> = {
  Bool: { negated: false, matches: sameIgnoringCase, objection: booleanText },
  StringEquals: { negated: false, matches: same, objection: anyText },
  StringNotEquals: { negated: true, matches: same, objection: anyText },
  StringEqualsIgnoreCase: { negated: false, matches: sameIgnoringCase, objection: anyText },
  StringNotEqualsIgnoreCase: { negated: true, matches: sameIgnoringCase, objection: anyText },
  StringLike: { negated: false, matches: matchesWildcards, objection: anyText },
  StringNotLike: { negated: true, matches: matchesWildcards, objection: anyText },
  ArnEquals: { negated: false, matches: matchesArn, objection: arnText },
  ArnNotEquals: { negated: true, matches: matchesArn, objection: arnText },
  ArnLike: { negated: false, matches: matchesArn, objection: arnText },
  ArnNotLike: { negated: true, matches: matchesArn, objection: arnText },
  IpAddress: { negated: false, matches: isInNetwork, objection: addressText },
  NotIpAddress: { negated: true, matches: isInNetwork, objection: addressText },
};

/** The keys that hold for NFS clients; names compare without regard to case. Null = not in this request. */
const conditionKeys = {
  'elasticfilesystem:accessedviamounttarget': (request: AccessRequest) =>
    String(request.accessedViaMountTarget),
  'elasticfilesystem:accesspointarn': (request: AccessRequest) => request.accessPointArn,
  'aws:securetransport': (request: AccessRequest) => String(request.secureTransport),
  'aws:principalarn': ({ principal }: AccessRequest) =>
    principal.kind === 'assumed-role'
      ? principal.roleArn
      : principal.kind === 'user'
        ? principal.userArn
        : null,
  'aws:sourceip': (request: AccessRequest) => request.sourceIp,
} as const;
type ConditionKey = keyof typeof conditionKeys;

/**
 * Decides what a client may do.
 *
 * An explicit deny wins over any allow; without a policy everyone has everything; and without
 * ClientMount the other two grant nothing.
 *
 * Source: Amazon EFS user guide, "Using IAM to control access to file systems"; IAM user guide, "Policy evaluation logic".
 */
export function decidePermissions(policy: Policy | null, request: AccessRequest): Decision {
  const decidedBy = {
    ClientMount: decideAction(policy, request, 'ClientMount'),
    ClientWrite: decideAction(policy, request, 'ClientWrite'),
    ClientRootAccess: decideAction(policy, request, 'ClientRootAccess'),
  };
  const mount = allows(decidedBy.ClientMount);
  for (const action of ['ClientWrite', 'ClientRootAccess'] as const) {
    if (!mount && allows(decidedBy[action])) decidedBy[action] = { kind: 'mount-not-allowed' };
  }
  return {
    decidedBy,
    permissions: {
      ClientMount: mount,
      ClientWrite: allows(decidedBy.ClientWrite),
      ClientRootAccess: allows(decidedBy.ClientRootAccess),
    },
  };
}

/**
 * Reads a file-system policy in the JSON that IAM and EFS use.
 *
 * Errors: `config.malformed` = not JSON, with the line; `config.invalid` = JSON with an element, an operator or a key
 * that is unknown or has no meaning for NFS clients. Nothing is skipped silently, because a skipped
 * condition would grant more than is written.
 * Source: IAM user guide, "IAM JSON policy elements reference".
 */
export function parsePolicy(text: string): Policy {
  const document = readPolicyDocument(text);
  const fields = objectOf(document.value, 'the policy');
  onlyKeys(fields, ['Version', 'Id', 'Statement'], 'the policy');
  const version = fields['Version'];
  if (version !== undefined && version !== '2012-10-17' && version !== '2008-10-17') {
    throw invalid(`Version is ${show(version)}; write "2012-10-17"`);
  }
  if (fields['Id'] !== undefined && typeof fields['Id'] !== 'string') throw invalid('Id is not a text');
  const statements = fields['Statement'];
  if (statements === undefined) throw invalid('the policy has no Statement');
  return {
    statements: (Array.isArray(statements) ? statements : [statements]).map((statement: unknown, index) =>
      parseStatement(statement, index, document.lineOfStatement(index)),
    ),
  };
}

function allows(decided: DecidedBy): boolean {
  return decided.kind === 'no-policy' || (decided.kind === 'statement' && decided.effect === 'Allow');
}

function decideAction(policy: Policy | null, request: AccessRequest, action: ClientAction): DecidedBy {
  if (policy === null) return { kind: 'no-policy' };
  const applying = policy.statements.filter((statement) => applies(statement, request, action));
  const decisive = applying.find(({ effect }) => effect === 'Deny') ?? applying[0];
  return decisive === undefined
    ? { kind: 'no-statement' }
    : { kind: 'statement', effect: decisive.effect, name: decisive.name, line: decisive.line };
}

function applies(statement: Statement, request: AccessRequest, action: ClientAction): boolean {
  const fullAction = `elasticfilesystem:${action}`.toLowerCase();
  const named = statement.actions.patterns.some((pattern) =>
    matchesWildcards(fullAction, pattern.toLowerCase()),
  );
  return (
    named !== statement.actions.negated &&
    statement.principals.some((pattern) => isPrincipal(request.principal, pattern)) &&
    isResource(request.fileSystemArn, statement.resources) &&
    statement.conditions.every((condition) => holds(condition, request))
  );
}

function isResource(fileSystemArn: string | null, resources: Statement['resources']): boolean {
  if (fileSystemArn === null || resources === null) return true;
  return resources.some((pattern) => matchesWildcards(fileSystemArn, pattern));
}

function isPrincipal(principal: AccessRequest['principal'], pattern: PrincipalPattern): boolean {
  if (pattern.kind === 'everyone') return true;
  if (principal.kind === 'anonymous') return false;
  if (pattern.kind === 'account') return principal.accountId === pattern.accountId;
  if (principal.kind === 'user') return pattern.arn === principal.userArn;
  return pattern.arn === principal.roleArn || pattern.arn === principal.sessionArn;
}

function holds(condition: Condition, request: AccessRequest): boolean {
  const value = conditionKeys[condition.key](request);
  // IAM: a key that the request does not have fails a condition, satisfies a negated one, and satisfies …IfExists.
  if (value === null) return condition.ifExists || condition.operator.negated;
  return (
    condition.values.some((pattern) => condition.operator.matches(value, pattern)) !==
    condition.operator.negated
  );
}

function parseStatement(value: unknown, index: number, line: number): Statement {
  const place = `statement ${index + 1} (line ${line})`;
  const fields = objectOf(value, place);
  for (const [negation, instead] of [
    ['NotPrincipal', 'Principal, with a condition on aws:PrincipalArn'],
    ['NotResource', 'Resource'],
  ] as const) {
    if (fields[negation] !== undefined)
      throw invalid(`${place}: ${negation} is not supported; use ${instead}`);
  }
  onlyKeys(fields, ['Sid', 'Effect', 'Principal', 'Action', 'NotAction', 'Resource', 'Condition'], place);
  const { Sid: sid, Effect: effect, Action: action, NotAction: notAction, Resource: resource } = fields;
  if (sid !== undefined && typeof sid !== 'string') throw invalid(`${place}: Sid is not a text`);
  if (effect !== 'Allow' && effect !== 'Deny') {
    throw invalid(`${place}: Effect is ${show(effect)}; write "Allow" or "Deny"`);
  }
  if ((action === undefined) === (notAction === undefined)) {
    throw invalid(`${place}: exactly one of Action and NotAction is needed`);
  }
  const patterns = textsOf(action ?? notAction, `${place}: ${action === undefined ? 'NotAction' : 'Action'}`);
  for (const pattern of patterns) {
    if (pattern !== '*' && !/^[a-z0-9-]+:[A-Za-z0-9*?]+$/i.test(pattern)) {
      throw invalid(
        `${place}: ${show(pattern)} is not an action; write for example "elasticfilesystem:ClientMount"`,
      );
    }
  }
  return {
    name: typeof sid === 'string' && sid !== '' ? sid : `statement ${index + 1}`,
    line,
    effect,
    principals: parsePrincipals(fields['Principal'], place),
    actions: { negated: action === undefined, patterns },
    resources: resource === undefined ? null : parseResources(resource, place),
    conditions: parseConditions(fields['Condition'], place),
  };
}

function parsePrincipals(value: unknown, place: string): PrincipalPattern[] {
  if (value === undefined) throw invalid(`${place}: Principal is missing; a file-system policy needs it`);
  if (value === '*') return [{ kind: 'everyone' }];
  const fields = objectOf(value, `${place}: Principal`);
  // A service is never an NFS client; policies name services for replication and backup.
  onlyKeys(fields, ['AWS', 'Service'], `${place}: Principal`);
  if (fields['Service'] !== undefined) textsOf(fields['Service'], `${place}: Principal Service`);
  else if (fields['AWS'] === undefined) throw invalid(`${place}: Principal names nobody`);
  if (fields['AWS'] === undefined) return [];
  return textsOf(fields['AWS'], `${place}: Principal AWS`).map((text) => parsePrincipal(text, place));
}

function parsePrincipal(text: string, place: string): PrincipalPattern {
  if (text === '*') return { kind: 'everyone' };
  const account = /^(?:arn:aws[a-z-]*:iam::(\d{12}):root|(\d{12}))$/.exec(text);
  if (account !== null) return { kind: 'account', accountId: (account[1] ?? account[2])! };
  if (/[*?]/.test(text)) {
    throw invalid(
      `${place}: Principal ${show(text)}: IAM knows no wildcard inside a principal; use aws:PrincipalArn`,
    );
  }
  if (!/^arn:aws[a-z-]*:(iam|sts)::\d{12}:[a-z-]+\/\S+$/.test(text)) {
    throw invalid(
      `${place}: Principal ${show(text)} is neither "*", an account nor the ARN of a role or user`,
    );
  }
  return { kind: 'arn', arn: text };
}

function parseResources(value: unknown, place: string): string[] {
  const resources = textsOf(value, `${place}: Resource`);
  for (const resource of resources) {
    if (arnText(resource) !== null)
      throw invalid(`${place}: Resource ${show(resource)} is neither "*" nor an ARN`);
  }
  return resources;
}

function parseConditions(value: unknown, place: string): Condition[] {
  if (value === undefined) return [];
  return Object.entries(objectOf(value, `${place}: Condition`)).flatMap(([operatorName, block]) => {
    const ifExists = operatorName.endsWith('IfExists');
    const baseName = ifExists ? operatorName.slice(0, -'IfExists'.length) : operatorName;
    if (!Object.hasOwn(operators, baseName)) {
      throw invalid(
        `${place}: condition operator ${show(operatorName)} is unknown; known: ${Object.keys(operators).join(', ')}`,
      );
    }
    const operator = operators[baseName]!;
    return Object.entries(objectOf(block, `${place}: Condition ${operatorName}`)).map(([keyName, wanted]) => {
      const where = `${place}: ${operatorName} ${show(keyName)}`;
      const key = keyName.toLowerCase();
      if (!isConditionKey(key)) {
        throw invalid(
          `${where}: this key does not hold for NFS clients; known: ${Object.keys(conditionKeys).join(', ')}`,
        );
      }
      const values = (Array.isArray(wanted) ? wanted : [wanted]).map((one: unknown) =>
        typeof one === 'boolean' ? String(one) : textOf(one, where),
      );
      if (values.length === 0) throw invalid(`${where}: no value is given`);
      for (const one of values) {
        const objection = operator.objection(one);
        if (objection !== null) throw invalid(`${where}: ${show(one)} ${objection}`);
      }
      return { key, operator, ifExists, values };
    });
  });
}

function isConditionKey(key: string): key is ConditionKey {
  return Object.hasOwn(conditionKeys, key);
}

function objectOf(value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw invalid(`${what} is not a JSON object`);
  return value as Record<string, unknown>;
}

function onlyKeys(fields: Record<string, unknown>, known: readonly string[], what: string): void {
  const unknownKey = Object.keys(fields).find((key) => !known.includes(key));
  if (unknownKey !== undefined)
    throw invalid(`${what} has an unknown element ${show(unknownKey)}; known: ${known.join(', ')}`);
}

function textsOf(value: unknown, what: string): string[] {
  const texts = (Array.isArray(value) ? value : [value]).map((one: unknown) => textOf(one, what));
  if (texts.length === 0) throw invalid(`${what} is an empty list`);
  return texts;
}

function textOf(value: unknown, what: string): string {
  if (typeof value !== 'string') throw invalid(`${what}: ${show(value)} is not a text`);
  if (value.includes('${')) throw invalid(`${what}: policy variables are not supported: ${show(value)}`);
  return value;
}

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? 'missing';
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

function invalid(why: string): AgentError {
  return new AgentError('config.invalid', `the file-system policy is not valid: ${why}`, {
    hint: 'Correct the policy at that place.',
  });
}

/** `*` = any characters, `?` = exactly one. */
function matchesWildcards(value: string, pattern: string): boolean {
  // Two indices and one place to go back to: a policy with many stars must not take exponential time.
  let at = 0;
  let patternAt = 0;
  let starAt = -1;
  let retryAt = 0;
  while (at < value.length) {
    if (pattern[patternAt] === '*') {
      starAt = patternAt++;
      retryAt = at;
    } else if (
      patternAt < pattern.length &&
      (pattern[patternAt] === '?' || pattern[patternAt] === value[at])
    ) {
      at++;
      patternAt++;
    } else if (starAt >= 0) {
      patternAt = starAt + 1;
      at = ++retryAt;
    } else {
      return false;
    }
  }
  while (pattern[patternAt] === '*') patternAt++;
  return patternAt === pattern.length;
}

/** Each of the six parts of an ARN matches for itself, so that `*` does not reach over a colon of the first five. */
function matchesArn(value: string, pattern: string): boolean {
  if (pattern === '*') return true;
  const values = arnParts(value);
  const patterns = arnParts(pattern);
  return (
    values.length === patterns.length &&
    values.every((part, index) => matchesWildcards(part, patterns[index]!))
  );
}

function arnParts(arn: string): string[] {
  const parts = arn.split(':');
  return [...parts.slice(0, 5), parts.slice(5).join(':')];
}

function isInNetwork(value: string, pattern: string): boolean {
  const family = isIP(value);
  const network = parseNetwork(pattern);
  return family !== 0 && network !== null && network.check(value, family === 6 ? 'ipv6' : 'ipv4');
}

function parseNetwork(pattern: string): BlockList | null {
  const [address = '', prefix, ...rest] = pattern.split('/');
  const family = isIP(address);
  const widest = family === 6 ? 128 : 32;
  const bits = prefix === undefined ? widest : /^\d{1,3}$/.test(prefix) ? Number(prefix) : Number.NaN;
  if (family === 0 || rest.length > 0 || !(bits <= widest)) return null;
  const network = new BlockList();
  network.addSubnet(address, bits, family === 6 ? 'ipv6' : 'ipv4');
  return network;
}
