/* Brings a Temporal server to what temporal.yaml says. Only adds and updates; removes nothing. Idempotent. */
import { createHash } from 'node:crypto';
import { KybernateError } from '../core/errors.ts';
import type { AttributeType, ScheduleConfig, TemporalConfig } from './temporal-config.ts';

/** The few calls that are needed of a server; cli/temporal-admin.ts makes them. */
export interface TemporalAdmin {
  hasNamespace(name: string): Promise<boolean>;
  /** Returns when the namespace can be used. */
  registerNamespace(name: string, retentionMs: number): Promise<void>;
  /** custom ones only: name → type */
  searchAttributes(namespace: string): Promise<ReadonlyMap<string, AttributeType>>;
  addSearchAttributes(namespace: string, attributes: ReadonlyMap<string, AttributeType>): Promise<void>;
  /** @returns the note of the schedule, undefined when there is no such schedule */
  scheduleNote(namespace: string, id: string): Promise<string | undefined>;
  createSchedule(namespace: string, id: string, schedule: ScheduleConfig, note: string): Promise<void>;
  updateSchedule(namespace: string, id: string, schedule: ScheduleConfig, note: string): Promise<void>;
}

export interface Applied {
  readonly kind: 'namespace' | 'searchAttribute' | 'schedule';
  readonly name: string;
  readonly change: 'created' | 'updated' | 'unchanged';
}

/**
 * @param connectionNamespace used where the file names none
 * @throws Incompatible when a search attribute exists with another type: nothing has been changed then
 */
export async function applyTemporalConfig(
  config: TemporalConfig,
  connectionNamespace: string,
  admin: TemporalAdmin,
): Promise<Applied[]> {
  const namespace = config.namespace.name ?? connectionNamespace;
  const applied: Applied[] = [];
  const exists = await admin.hasNamespace(namespace);
  if (!exists) {
    await admin.registerNamespace(namespace, config.namespace.retention);
  }
  applied.push({ kind: 'namespace', name: namespace, change: exists ? 'unchanged' : 'created' });
  applied.push(...(await applySearchAttributes(config, namespace, admin)));
  for (const [id, schedule] of Object.entries(config.schedules)) {
    applied.push({ kind: 'schedule', name: id, change: await applySchedule(namespace, id, schedule, admin) });
  }
  return applied;
}

async function applySearchAttributes(
  config: TemporalConfig,
  namespace: string,
  admin: TemporalAdmin,
): Promise<Applied[]> {
  const wanted = Object.entries(config.searchAttributes);
  const present = await admin.searchAttributes(namespace);
  const wrong = wanted.filter(([name, type]) => present.has(name) && present.get(name) !== type);
  if (wrong.length > 0) {
    const list = wrong.map(([name, type]) => `${name} is ${present.get(name) ?? ''}, not ${type}`).join('; ');
    throw new KybernateError(
      'Incompatible',
      `search attributes of namespace ${namespace} have another type: ${list}; Temporal cannot change a type, remove them first`,
    );
  }
  const missing = new Map(wanted.filter(([name]) => !present.has(name)));
  if (missing.size > 0) {
    await admin.addSearchAttributes(namespace, missing);
  }
  return wanted.map(([name]) => ({
    kind: 'searchAttribute',
    name,
    change: missing.has(name) ? 'created' : 'unchanged',
  }));
}

async function applySchedule(
  namespace: string,
  id: string,
  schedule: ScheduleConfig,
  admin: TemporalAdmin,
): Promise<Applied['change']> {
  const note = scheduleNote(schedule);
  const present = await admin.scheduleNote(namespace, id);
  if (present === undefined) {
    await admin.createSchedule(namespace, id, schedule, note);
    return 'created';
  }
  if (present === note) {
    return 'unchanged';
  }
  await admin.updateSchedule(namespace, id, schedule, note);
  return 'updated';
}

/** Shown in the Web UI, and compared: a schedule has no better place for what it was made from. */
export function scheduleNote(schedule: ScheduleConfig): string {
  const digest = createHash('sha256').update(JSON.stringify(schedule)).digest('hex').slice(0, 12);
  return `kybernate temporal apply, ${digest}`;
}
