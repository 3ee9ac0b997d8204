import { type DocumentNode, parse, type ValueNode } from '@humanwhocodes/momoa';
import { AgentError } from '../core/errors.ts';

/** The JSON of a policy, and where its parts stand in the text. */
export interface PolicyDocument {
  value: unknown;
  /** Line of what stands at `Statement`, or of its entry with this index; from 1. */
  lineOfStatement(index: number): number;
}

/**
 * Reads the JSON of a policy. A name that stands twice in one object is an error: JSON would silently take the last.
 *
 * Errors: `config.malformed` with line and column.
 */
export function readPolicyDocument(text: string): PolicyDocument {
  const { body } = parseText(text);
  refuseRepeatedNames(body);
  const statements = memberOf(body, 'Statement');
  return {
    value: parseValue(text),
    lineOfStatement(index) {
      const entry = statements?.type === 'Array' ? statements.elements[index]?.value : statements;
      return (entry ?? body).loc.start.line;
    },
  };
}

function parseText(text: string): DocumentNode {
  try {
    return parse(text, { mode: 'json' });
  } catch (thrown) {
    const { line, column } = thrown as { line?: number; column?: number };
    const reason = thrown instanceof Error ? thrown.message.replace(/ \(\d+:\d+\)$/, '') : String(thrown);
    throw malformed(`line ${line ?? '?'}, column ${column ?? '?'}: ${reason}`, thrown);
  }
}

/** The value itself comes from the parser that decides what JSON is. */
function parseValue(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (thrown) {
    throw malformed(thrown instanceof Error ? thrown.message : String(thrown), thrown);
  }
}

function refuseRepeatedNames(node: ValueNode): void {
  if (node.type === 'Array') for (const { value } of node.elements) refuseRepeatedNames(value);
  if (node.type !== 'Object') return;
  const seen = new Set<string>();
  for (const member of node.members) {
    const name = nameOf(member);
    if (seen.has(name)) {
      const { line, column } = member.loc.start;
      throw malformed(`line ${line}, column ${column}: "${name}" stands twice in one object`);
    }
    seen.add(name);
    refuseRepeatedNames(member.value);
  }
}

function memberOf(node: ValueNode, name: string): ValueNode | undefined {
  return node.type === 'Object' ? node.members.find((member) => nameOf(member) === name)?.value : undefined;
}

function nameOf({
  name,
}: {
  name: { type: 'String'; value: string } | { type: 'Identifier'; name: string };
}) {
  return name.type === 'String' ? name.value : name.name;
}

function malformed(why: string, cause?: unknown): AgentError {
  return new AgentError(
    'config.malformed',
    `the file-system policy is not JSON: ${why}`,
    { hint: 'Correct the policy at that place.' },
    cause,
  );
}
