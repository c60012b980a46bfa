import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { diskLeftovers, sweepDisk } from './disk-leftovers.ts';
import { bootId } from './operation.ts';
import { claimOperation } from './operation-owner.ts';
import { restoresUsing, takeLease } from './restore-operation.ts';

const OWN = 'a'.repeat(32);
const silent = (): void => undefined;
const op = {
  signal: new AbortController().signal,
  progress: silent,
  log: { debug: silent, info: silent, warn: silent, error: silent },
};
const workflow = { workflowId: 'w', runId: 'r' };

let dir: string;
let settings: { runDir: string; stateDir: string };

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-leftovers-'));
  settings = { runDir: join(dir, 'run'), stateDir: dir };
});
afterEach(() => rmSync(dir, { recursive: true }));

function checkpoint(name: string, file?: string): void {
  mkdirSync(join(dir, 'checkpoints', name), { recursive: true });
  if (file !== undefined) {
    writeFileSync(join(dir, 'checkpoints', name, file), '{}');
  }
}

function draft(id: string, boot: string): void {
  writeFileSync(join(dir, 'checkpoints', `checkpoint-${id}.draft.json`), JSON.stringify({ bootId: boot }));
}

const left = (): string[] => readdirSync(join(dir, 'checkpoints')).sort();

test('what a reboot left of captures and fetches goes, what is committed stays', async () => {
  checkpoint('checkpoint-whole', 'metadata.json');
  checkpoint('checkpoint-half', 'config.json');
  checkpoint('checkpoint-captured', 'config.json');
  draft('captured', 'another boot');
  draft('whole', 'another boot');
  checkpoint(`.fetch-${'b'.repeat(32)}`, 'metadata.json');
  checkpoint('.discard-checkpoint-gone', 'config.json');
  checkpoint('.import-4194303-x', 'config.json');

  const removed = await sweepDisk(settings, op);

  expect(left()).toEqual(['checkpoint-whole']);
  expect(removed).toHaveLength(6);
  expect(await sweepDisk(settings, op)).toEqual([]);
});

test('a committed checkpoint that was moved aside comes back', async () => {
  checkpoint('.discard-checkpoint-late', 'metadata.json');

  await sweepDisk(settings, op);

  expect(left()).toEqual(['checkpoint-late']);
});

test('a whole capture of this boot is told, and waits', async () => {
  checkpoint('checkpoint-captured', 'config.json');
  draft('captured', bootId());

  expect(await sweepDisk(settings, op)).toEqual([]);

  expect(await diskLeftovers(settings)).toMatchObject([{ kind: 'half-made checkpoint', whole: true }]);
});

test('a draft that was cut short is none', async () => {
  checkpoint('checkpoint-captured', 'config.json');
  writeFileSync(join(dir, 'checkpoints', 'checkpoint-captured.draft.json'), '{"bootId": "');

  await sweepDisk(settings, op);

  expect(left()).toEqual([]);
});

test.each(['a fetch that is under way', 'a lease of an operation that lives'])('%s is left alone', async (who) => {
  checkpoint('checkpoint-coming');
  checkpoint(`.fetch-${OWN}`);
  const isFetch = who.startsWith('a fetch');
  claimOperation(settings, OWN, { workflow, ...(isFetch ? { checkpointId: 'coming' } : {}) });
  if (!isFetch) {
    takeLease(settings, 'coming', OWN);
  }

  expect(await sweepDisk(settings, op)).toEqual([]);

  expect(left()).toEqual([`.fetch-${OWN}`, 'checkpoint-coming']);
});

test('a lease whose operation is gone ends', async () => {
  takeLease(settings, 'one', OWN);
  claimOperation(settings, 'b'.repeat(32), { workflow });
  takeLease(settings, 'one', 'b'.repeat(32));

  await sweepDisk(settings, op);

  expect(restoresUsing(settings, 'one')).toEqual(['b'.repeat(32)]);
});

test('saved logs stay within their limits, the newest of them', async () => {
  for (let index = 0; index < 60; index += 1) {
    const name = String(index).padStart(2, '0');
    mkdirSync(join(dir, 'logs', `restore-${name}`), { recursive: true });
    mkdirSync(join(dir, 'failed', name), { recursive: true });
  }

  await sweepDisk(settings, op);

  expect([readdirSync(join(dir, 'logs')).length, readdirSync(join(dir, 'failed')).length]).toEqual([50, 20]);
  expect(existsSync(join(dir, 'checkpoints'))).toBe(false);
});
