/*
 * temporal.yaml: what Kybernate needs of a Temporal server, namespace, search attributes, schedules. Our own file; the
 * Temporal CLI once had a file of that name, which has nothing to do with it.
 */
import { readFile } from 'node:fs/promises';
import * as z from 'zod';
import { parseInput } from '../core/contract/parse.ts';
import { KybernateError, messageOf } from '../core/errors.ts';
import { parseDuration } from './units.ts';
import { whyUnread } from './validate.ts';

export const ATTRIBUTE_TYPES = ['Text', 'Keyword', 'Int', 'Double', 'Bool', 'Datetime', 'KeywordList'] as const;
export type AttributeType = (typeof ATTRIBUTE_TYPES)[number];

const duration = z.string().transform((text, context) => {
  const ms = parseDuration(text);
  if (ms === undefined || ms < 1000) {
    context.addIssue({ code: 'custom', message: 'a duration of a second or more: 60s, 5m, 2h, 7d' });
    return z.NEVER;
  }
  return ms;
});

const schedule = z
  .strictObject({
    /** type of the workflow that is started */
    workflow: z.string().min(1),
    taskQueue: z.string().min(1),
    /** the workflow's one argument */
    input: z.record(z.string(), z.unknown()).default({}),
    /** between two starts: `5m`, `1d` */
    every: duration.optional(),
    /** five fields, in UTC */
    cron: z.string().min(1).optional(),
    paused: z.boolean().default(false),
  })
  .refine((value) => (value.every === undefined) !== (value.cron === undefined), 'give either every or cron');

export const temporalConfig = z.strictObject({
  namespace: z
    .strictObject({
      /** that of the connection (TEMPORAL_NAMESPACE) otherwise */
      name: z.string().min(1).optional(),
      /** how long closed workflows are kept; only used for a namespace that does not exist yet */
      retention: duration.default(7 * 86_400_000),
    })
    .prefault({}),
  /** name → type; existing ones of the same type are left alone */
  searchAttributes: z.record(z.string().regex(/^[A-Za-z][A-Za-z0-9]*$/), z.enum(ATTRIBUTE_TYPES)).default({}),
  /** id → what is started when */
  schedules: z.record(z.string().min(1), schedule).default({}),
});
export type TemporalConfig = z.output<typeof temporalConfig>;
export type ScheduleConfig = TemporalConfig['schedules'][string];

/** @throws InvalidInput naming the file and every wrong field */
export async function readTemporalConfig(file: string): Promise<TemporalConfig> {
  let value: unknown;
  try {
    const { parse } = await import('yaml');
    value = parse(await readFile(file, 'utf8')) as unknown;
  } catch (error) {
    throw new KybernateError('InvalidInput', `cannot read ${file}: ${whyUnread(error)}`, { cause: error });
  }
  try {
    return parseInput(temporalConfig, value);
  } catch (error) {
    throw new KybernateError('InvalidInput', `${file}: ${messageOf(error)}`, { cause: error });
  }
}
