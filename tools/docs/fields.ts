/* Tables of fields: inputs of workflows, and variables, from their schemas and the comments in their sources. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as z from 'zod';
import { controlEnv, nodeEnv, operatorEnv, sidecarEnv, workerEnv } from '../../workers/config.ts';
import { schemaComments } from '../schema-comments.ts';
import { table } from './table.ts';

const ROOT = join(import.meta.dirname, '../..');

/** What the source says of the fields of a contract. */
export function comments(file: string, constName: string): Map<string, string> {
  return schemaComments(readFileSync(join(ROOT, `core/contract/${file}.ts`), 'utf8'), constName);
}

/** The part of JSON Schema that our contracts use. */
interface Field {
  readonly type?: string;
  readonly enum?: readonly string[];
  readonly default?: unknown;
  readonly properties?: Readonly<Record<string, Field>>;
  readonly required?: readonly string[];
  readonly additionalProperties?: unknown;
}

/** A workflow's input; fields that several contracts share have tables of their own. */
export function inputTable(schema: z.ZodType, file: string, constName: string): string {
  return fieldTable(schema, comments(file, constName), {
    timeouts: 'time limits, see [Timeouts](#timeouts)',
    ...(constName !== 'restoreInput' && {
      container: 'the source, see [Container](#container)',
      gpu: 'what holds for the processes that use a GPU, see [GPU](#gpu)',
    }),
  });
}

/** Both fields have the form of a hook. */
export const HOOKS = {
  quiesce:
    'before the lock, for example a call of `torch.cuda.empty_cache()`: what is not held is not saved; a [hook](#hook)',
  resume: 'after the unlock; a [hook](#hook)',
};

/** @param shared fields that are described elsewhere, with the words for it */
export function fieldTable(
  schema: z.ZodType,
  described: ReadonlyMap<string, string>,
  shared: Readonly<Record<string, string>> = {},
): string {
  const rows: string[][] = [];
  function add(field: Field, path: string, required: boolean): void {
    const nested = shared[path] === undefined && field.properties !== undefined;
    if (path !== '' && (!nested || described.has(path))) {
      rows.push([
        `\`${path}\``,
        typeText(field),
        defaultText(field, required),
        shared[path] ?? described.get(path) ?? '',
      ]);
    }
    for (const [name, child] of Object.entries(nested ? (field.properties ?? {}) : {})) {
      add(child, path === '' ? name : `${path}.${name}`, field.required?.includes(name) ?? false);
    }
  }
  add(z.toJSONSchema(schema, { io: 'input' }) as Field, '', true);
  return table(['Field', 'Type', 'Default', 'Meaning'], rows);
}

function typeText(field: Field): string {
  if (field.enum !== undefined) {
    return field.enum.map((value) => `\`${value}\``).join(', ');
  }
  if (field.type === 'object') {
    return field.properties === undefined ? 'object of strings' : 'object';
  }
  return field.type ?? '';
}

function defaultText(field: Field, required: boolean): string {
  if (required) {
    return 'required';
  }
  const value = field.default;
  // The default of an object is put together from those of its fields.
  return value === undefined || typeof value === 'object' ? '' : `\`${JSON.stringify(value).replaceAll('"', '')}\``;
}

/** Variables whose default is found out on the machine. */
const FOUND_DEFAULTS: Readonly<Record<string, string>> = { KYBERNATE_NODE: 'host name' };

const READERS = { control: controlEnv, node: nodeEnv, sidecar: sidecarEnv, operator: operatorEnv };

export function variableTable(): string {
  const described = schemaComments(readFileSync(join(ROOT, 'workers/config.ts'), 'utf8'), 'workerEnv');
  const { properties = {} } = z.toJSONSchema(workerEnv, { io: 'input' }) as Field;
  const rows = Object.entries(properties).map(([name, field]) => {
    const choices = field.enum === undefined ? '' : ` (${typeText(field)})`;
    const value = FOUND_DEFAULTS[name] ?? defaultText(field, false);
    const readers = Object.entries(READERS).flatMap(([reader, schema]) => (name in schema.shape ? [reader] : []));
    return [`\`${name}\``, readers.join(', '), value === '``' ? '' : value, `${described.get(name) ?? ''}${choices}`];
  });
  return table(['Variable', 'Read by', 'Default', 'Meaning'], rows);
}
