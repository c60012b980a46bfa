import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseInput } from '../core/contract/parse.ts';
import { applyTemporalConfig } from './temporal-apply.ts';
import type { TemporalAdmin } from './temporal-apply.ts';
import { readTemporalConfig, temporalConfig } from './temporal-config.ts';
import type { AttributeType } from './temporal-config.ts';

/** A server in memory. */
function server(namespaces: Record<string, Record<string, AttributeType>>) {
  const calls: string[] = [];
  const attributes = new Map(Object.entries(namespaces).map(([name, types]) => [name, new Map(Object.entries(types))]));
  const notes = new Map<string, string>();
  const admin: TemporalAdmin = {
    hasNamespace: async (name) => attributes.has(name),
    registerNamespace: async (name, retentionMs) => {
      calls.push(`register ${name} ${String(retentionMs)}`);
      attributes.set(name, new Map());
    },
    searchAttributes: async (name) => attributes.get(name) ?? new Map<string, AttributeType>(),
    addSearchAttributes: async (name, added) => {
      calls.push(`add ${[...added.keys()].join(',')}`);
      added.forEach((type, key) => attributes.get(name)?.set(key, type));
    },
    scheduleNote: async (_, id) => notes.get(id),
    createSchedule: async (_, id, __, note) => {
      calls.push(`create ${id}`);
      notes.set(id, note);
    },
    updateSchedule: async (_, id, __, note) => {
      calls.push(`update ${id}`);
      notes.set(id, note);
    },
  };
  return { admin, calls };
}

const CONFIG = {
  namespace: { retention: '3d' },
  searchAttributes: { KybernateNode: 'Keyword', KybernatePhase: 'Keyword' },
  schedules: { gc: { workflow: 'collectGarbage', taskQueue: 'kybernate', every: '1h' } },
};

describe('applyTemporalConfig', () => {
  it('makes everything on a bare server, and nothing the second time', async () => {
    const { admin, calls } = server({});
    const config = parseInput(temporalConfig, CONFIG);

    const first = await applyTemporalConfig(config, 'ours', admin);
    const callsOfFirst = [...calls];
    const second = await applyTemporalConfig(config, 'ours', admin);

    expect(callsOfFirst).toEqual(['register ours 259200000', 'add KybernateNode,KybernatePhase', 'create gc']);
    expect(first.map(({ change }) => change)).toEqual(['created', 'created', 'created', 'created']);
    expect(second.map(({ change }) => change)).toEqual(['unchanged', 'unchanged', 'unchanged', 'unchanged']);
    expect(calls).toEqual(callsOfFirst);
  });

  it('adds only the search attributes that are missing', async () => {
    const { admin, calls } = server({ ours: { KybernateNode: 'Keyword', Foreign: 'Int' } });

    await applyTemporalConfig(parseInput(temporalConfig, { searchAttributes: CONFIG.searchAttributes }), 'ours', admin);

    expect(calls).toEqual(['add KybernatePhase']);
  });

  it('changes nothing when a search attribute has another type, and says which', async () => {
    const { admin, calls } = server({ ours: { KybernatePhase: 'Text' } });

    await expect(applyTemporalConfig(parseInput(temporalConfig, CONFIG), 'ours', admin)).rejects.toMatchObject({
      type: 'Incompatible',
      message: expect.stringContaining('KybernatePhase is Text, not Keyword') as string,
    });

    expect(calls).toEqual([]);
  });

  it('updates a schedule whose definition has changed', async () => {
    const { admin, calls } = server({ ours: {} });
    await applyTemporalConfig(parseInput(temporalConfig, { schedules: CONFIG.schedules }), 'ours', admin);

    const changed = { gc: { ...CONFIG.schedules.gc, every: '2h' } };
    const applied = await applyTemporalConfig(parseInput(temporalConfig, { schedules: changed }), 'ours', admin);

    expect(calls).toEqual(['create gc', 'update gc']);
    expect(applied.at(-1)).toEqual({ kind: 'schedule', name: 'gc', change: 'updated' });
  });

  it('prefers the namespace that the file names', async () => {
    const { admin } = server({ ours: {}, theirs: {} });

    const applied = await applyTemporalConfig(
      parseInput(temporalConfig, { namespace: { name: 'theirs' } }),
      'ours',
      admin,
    );

    expect(applied).toEqual([{ kind: 'namespace', name: 'theirs', change: 'unchanged' }]);
  });
});

describe('readTemporalConfig', () => {
  let dir: string;
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'kybernate-temporal-'));
  });
  afterAll(async () => {
    await rm(dir, { recursive: true });
  });

  it.each([
    ['an unknown field', 'searchAttribute: {}', 'searchAttribute'],
    ['an unknown type', 'searchAttributes: { A: Keywords }', 'searchAttributes.A'],
    [
      'a schedule without a time',
      'schedules: { a: { workflow: x, taskQueue: y } }',
      'schedules.a: give either every or cron',
    ],
    ['a duration without a unit', 'namespace: { retention: "7" }', 'namespace.retention'],
    ['no YAML', '{', 'cannot read'],
  ])('refuses %s', async (_, text, named) => {
    const file = join(dir, 'temporal.yaml');
    await writeFile(file, text);

    await expect(readTemporalConfig(file)).rejects.toMatchObject({
      type: 'InvalidInput',
      message: expect.stringContaining(named) as string,
    });
  });

  it('names a file that is not there', async () => {
    await expect(readTemporalConfig('/nowhere/temporal.yaml')).rejects.toMatchObject({ type: 'InvalidInput' });
  });
});
