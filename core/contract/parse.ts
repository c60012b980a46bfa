import type * as z from 'zod';
import { KybernateError } from '../errors.ts';

/**
 * Checks input against its schema.
 * @throws InvalidInput naming every field that is wrong, by its path
 */
export function parseInput<Schema extends z.ZodType>(schema: Schema, input: unknown): z.output<Schema> {
  const parsed = schema.safeParse(input);
  if (parsed.success) {
    return parsed.data;
  }
  const issues = parsed.error.issues.map((issue) => ({ path: issue.path.join('.'), message: issue.message }));
  const text = issues.map((issue) => `${issue.path === '' ? 'input' : issue.path}: ${issue.message}`).join('; ');
  throw new KybernateError('InvalidInput', text, { details: { issues } });
}
