/* JSON of unknown origin: of bounded depth, since whoever walks it later would run out of stack, and of the kind asked for. */
import { refused } from './limits.ts';

const MAX_DEPTH = 100;
const MAX_PATHS = 1_000_000;

/** @throws CheckpointCorrupt naming the file */
export function parseObject(text: string, name: string): Readonly<Record<string, unknown>> {
  const value = parse(text, name);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw refused(`${name} is no JSON object`, { file: name });
  }
  return value as Record<string, unknown>;
}

/**
 * A list of paths, or `null` as Go writes an empty one.
 * @returns byte strings
 * @throws CheckpointCorrupt naming the file
 */
export function parsePaths(text: string, name: string): string[] {
  const value = parse(text, name) ?? [];
  if (!Array.isArray(value) || value.length > MAX_PATHS || !value.every((path) => typeof path === 'string')) {
    throw refused(`${name} is no list of paths`, { file: name });
  }
  return value.map((path: string) => Buffer.from(path).toString('latin1'));
}

function parse(text: string, name: string): unknown {
  if (depthOf(text) > MAX_DEPTH) {
    throw refused(`${name} is nested more than ${MAX_DEPTH} deep`, { file: name });
  }
  try {
    return JSON.parse(text) as unknown;
  } catch {
    // SyntaxError, whose message would repeat parts of the file.
    throw refused(`${name} is not JSON`, { file: name });
  }
}

/** Of brackets outside of strings; as far as it needs to be known. */
export function depthOf(text: string): number {
  let depth = 0;
  let deepest = 0;
  let quoted = false;
  for (let at = 0; at < text.length; at += 1) {
    const letter = text[at];
    if (quoted) {
      at += letter === '\\' ? 1 : 0;
      quoted = letter !== '"';
    } else if (letter === '"') {
      quoted = true;
    } else if (letter === '{' || letter === '[') {
      depth += 1;
      deepest = Math.max(deepest, depth);
    } else if (letter === '}' || letter === ']') {
      depth -= 1;
    }
  }
  return deepest;
}
