/*
 * Checks a request against its contract before it is sent, so that a slip costs no round trip. The workflow checks
 * again. Fields are named as the user wrote them: by flag.
 */
import { readFile } from 'node:fs/promises';
import { getSystemErrorMessage } from 'node:util';
import type { ZodType, input as ZodInput } from 'zod';
import { KybernateError, isKybernateError, messageOf } from '../core/errors.ts';
import type { Terminal } from './terminal.ts';

/** path of a field in the request to the flag that sets it */
export type FlagNames = Readonly<Record<string, string>>;

interface Issue {
  readonly path: string;
  readonly message: string;
}

/** @throws InvalidInput naming every wrong field by its flag, or by its path in the input file */
export async function checkRequest<Schema extends ZodType>(
  schema: Schema,
  request: unknown,
  flags: FlagNames,
): Promise<ZodInput<Schema>> {
  const { parseInput } = await import('../core/contract/parse.ts');
  try {
    parseInput(schema, request);
    return request as ZodInput<Schema>;
  } catch (error) {
    if (!isKybernateError(error, 'InvalidInput')) {
      throw error;
    }
    const issues = (error.details['issues'] ?? []) as readonly Issue[];
    const text = issues.map((issue) => `${flagOf(issue.path, flags)}: ${issue.message}`).join('; ');
    throw new KybernateError('InvalidInput', text === '' ? error.message : text, {
      details: error.details,
      cause: error,
    });
  }
}

/** The flag of the field itself, or of the nearest field above it. */
export function flagOf(path: string, flags: FlagNames): string {
  for (let at = path; at !== ''; at = at.slice(0, Math.max(0, at.lastIndexOf('.')))) {
    const flag = flags[at];
    if (flag !== undefined) {
      return at === path ? flag : `${flag} (${path})`;
    }
  }
  return path === '' ? 'the input' : path;
}

/**
 * The request that `--input` names: a JSON file, or `-` for standard input.
 * @throws InvalidInput when it cannot be read or is no JSON object
 */
export async function readRequest(file: string | undefined, terminal: Terminal): Promise<Record<string, unknown>> {
  if (file === undefined) {
    return {};
  }
  let text: string;
  try {
    text = file === '-' ? await terminal.readAll() : await readFile(file, 'utf8');
  } catch (error) {
    throw new KybernateError('InvalidInput', `--input: cannot read ${file}: ${whyUnread(error)}`, { cause: error });
  }
  const value = parseJson(text, file === '-' ? 'standard input' : file);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new KybernateError('InvalidInput', `--input: ${file} does not hold a JSON object`);
  }
  return { ...value };
}

/** The system's words for an error of a file, without the name of the call and the path that the message has already. */
export function whyUnread(error: unknown): string {
  const number = error instanceof Error && 'errno' in error ? error.errno : undefined;
  return typeof number === 'number' ? getSystemErrorMessage(number) : messageOf(error);
}

function parseJson(text: string, file: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw new KybernateError('InvalidInput', `--input: ${file} is no JSON: ${messageOf(error)}`, { cause: error });
  }
}
