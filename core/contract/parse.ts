import type * as z from 'zod';
import { KybernateError } from '../errors.ts';

/** Of a request that is wrong in a thousand places a few are enough, and what it holds is not told back whole. */
const MAX_ISSUES = 16;
const MAX_TEXT = 300;

/**
 * Checks input against its schema.
 * @throws InvalidInput naming the fields that are wrong, by their paths
 */
export function parseInput<Schema extends z.ZodType>(schema: Schema, input: unknown): z.output<Schema> {
  const parsed = schema.safeParse(input);
  if (parsed.success) {
    return parsed.data;
  }
  const all = parsed.error.issues;
  const issues = all
    .slice(0, MAX_ISSUES)
    .map(({ path, message }) => ({ path: shown(path.join('.')), message: shown(message) }));
  const text = issues.map((issue) => `${issue.path === '' ? 'input' : issue.path}: ${issue.message}`).join('; ');
  const more = all.length > MAX_ISSUES ? `; and ${all.length - MAX_ISSUES} more` : '';
  throw new KybernateError('InvalidInput', `${text}${more}`, { details: { issues } });
}

/** It names keys as they came. Half a surrogate pair cannot be sent to Temporal: the failure that tells of it would fail. */
function shown(text: string): string {
  return (text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}…` : text).toWellFormed();
}
