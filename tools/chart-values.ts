/* The values of the chart: their defaults from values.yaml, their meaning from the schema that helm checks them by. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';

const CHART = join(import.meta.dirname, '../helm/kybernate');

interface Schema {
  readonly description?: string;
  readonly enum?: readonly string[];
  readonly properties?: Readonly<Record<string, Schema>>;
}

export interface ChartValue {
  /** as after `--set` */
  readonly name: string;
  readonly default: unknown;
  /** absent for one that the schema does not describe */
  readonly meaning?: string;
  readonly choices: readonly string[];
}

/** Every value that has no others below it in the schema, in its order. */
export function chartValues(): ChartValue[] {
  const schema = JSON.parse(readFileSync(join(CHART, 'values.schema.json'), 'utf8')) as Schema;
  const values: unknown = parse(readFileSync(join(CHART, 'values.yaml'), 'utf8'));
  return below('', schema, values);
}

function below(name: string, { properties, description, enum: choices = [] }: Schema, value: unknown): ChartValue[] {
  if (properties === undefined) {
    return [{ name, default: value, choices, ...(description === undefined ? {} : { meaning: description }) }];
  }
  return Object.entries(properties).flatMap(([key, child]) =>
    below(name === '' ? key : `${name}.${key}`, child, (value as Readonly<Record<string, unknown>> | undefined)?.[key]),
  );
}
