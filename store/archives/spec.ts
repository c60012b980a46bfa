/* spec.dump of unknown origin: an object of bounded depth, with the fields that are read here in their right kinds. */
import * as z from 'zod';
import { KybernateError } from '../../core/errors.ts';
import { type OciSpec, parseSpec } from '../../core/oci/spec.ts';
import { FOREIGN_FILES } from './foreign-files.ts';
import { parseObject } from './json.ts';
import { refused } from './limits.ts';

const strings = z.array(z.string()).nullish();
const namespaceEntry = z.looseObject({ type: z.string(), path: z.string().nullish() });
const mount = z.looseObject({
  destination: z.string().min(1).max(4096),
  type: z.string().nullish(),
  source: z.string().nullish(),
  options: strings,
});

/** Go writes an absent list as `null` in places. */
const shape = z.looseObject({
  process: z.looseObject({ terminal: z.boolean().nullish(), env: strings, args: strings }).nullish(),
  root: z.looseObject({ path: z.string() }).nullish(),
  hostname: z.string().nullish(),
  mounts: z.array(mount).max(10_000).nullish(),
  hooks: z.record(z.string(), z.array(z.looseObject({ path: z.string() })).nullish()).nullish(),
  annotations: z.record(z.string(), z.string()).nullish(),
  linux: z
    .looseObject({
      namespaces: z.array(namespaceEntry).nullish(),
      devices: z.array(z.looseObject({ path: z.string(), type: z.string() })).nullish(),
      cgroupsPath: z.string().nullish(),
      resources: z.looseObject({ devices: z.array(z.looseObject({ allow: z.boolean() })).nullish() }).nullish(),
      maskedPaths: strings,
      readonlyPaths: strings,
      uidMappings: z.array(z.looseObject({ containerID: z.number() })).nullish(),
      gidMappings: z.array(z.looseObject({ containerID: z.number() })).nullish(),
    })
    .nullish(),
});

/**
 * @returns with its integers as they are written, and without what is `null`
 * @throws CheckpointCorrupt naming the field
 */
export function parseForeignSpec(text: string): OciSpec {
  parseObject(text, FOREIGN_FILES.spec);
  const parsed = shape.safeParse(parseSpec(text, FOREIGN_FILES.spec));
  if (!parsed.success) {
    const issues = parsed.error.issues.slice(0, 3).map((issue) => `${issue.path.join('.')}: ${issue.message}`);
    throw refused(`spec.dump is no specification of a container: ${issues.join('; ')}`, { file: FOREIGN_FILES.spec });
  }
  try {
    return withoutNulls(parseSpec(text, FOREIGN_FILES.spec)) as OciSpec;
  } catch (error) {
    if (error instanceof KybernateError) {
      throw error;
    }
    throw refused('spec.dump cannot be read', { file: FOREIGN_FILES.spec });
  }
}

function withoutNulls(value: unknown): unknown {
  if (Array.isArray(value)) {
    return value.map(withoutNulls);
  }
  // An integer that keeps its text is an object with a prototype of its own.
  if (typeof value !== 'object' || value === null || Object.getPrototypeOf(value) !== Object.prototype) {
    return value;
  }
  const entries = Object.entries(value).filter(([, member]) => member !== null);
  return Object.fromEntries(entries.map(([key, member]) => [key, withoutNulls(member)]));
}
