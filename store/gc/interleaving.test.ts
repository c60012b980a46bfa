/*
 * Uploads, fetches, removals and collections on one store, at random interleavings, with deaths between any two calls:
 * no published checkpoint ever loses anything, no reader meets a gap, and nothing is left when all is quiet.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { isKybernateError, type ErrorType } from '../../core/errors.ts';
import { testOp } from '../../test/harness/checkpoint-dir.ts';
import { collect } from '../../test/harness/collect.ts';
import { Interleaving, randomOf } from '../../test/harness/interleaving.ts';
import { faultsOf } from '../../test/harness/quiet-store.ts';
import { makeSources, type Source } from '../../test/harness/shared-content.ts';
import { times } from '../../test/harness/soak.ts';
import type { Backend } from '../backend/backend.ts';
import { openLocalBackend } from '../backend/local.ts';
import { fetchCheckpoint } from '../fetch.ts';
import { publishManifest } from '../publish.ts';
import { removeCheckpoint } from '../remove.ts';
import { uploadCheckpoint } from '../upload.ts';
import { listStored } from '../registry.ts';
import { verifyRemote } from '../verify.ts';

const IDS = ['ck-a', 'ck-b', 'ck-c'];
const OPERATIONS = 24;
const AT_ONCE = 5;

let root = '';
let sources: Source[] = [];
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-interleaving-'));
  sources = await makeSources(root, IDS);
});
afterAll(() => rm(root, { recursive: true, force: true }));
beforeEach(() => {
  vi.useFakeTimers({ toFake: ['Date', 'setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] });
});
afterEach(() => vi.useRealTimers());

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

async function ending(expected: readonly ErrorType[], act: () => Promise<unknown>): Promise<boolean> {
  try {
    await act();
    return true;
  } catch (error) {
    if (isKybernateError(error) && expected.includes(error.type)) {
      return error.type !== 'StorageUnavailable';
    }
    throw error;
  }
}

/** As the activity does: an error that may pass is tried again. */
async function upload(backend: Backend, source: Source, ledgerPath: string): Promise<void> {
  const request = { ...source, ledgerPath, backend, op: testOp(), packBytes: 4000 };
  for (;;) {
    const done = await ending(['StorageUnavailable', 'InvalidInput'], async () => {
      await uploadCheckpoint(request);
      await publishManifest(request);
    });
    if (done) {
      return;
    }
    await sleep(30_000);
  }
}

async function operate(world: Interleaving, random: () => number, number: number): Promise<void> {
  const pick = random();
  const source = sources[Math.floor(random() * sources.length)];
  if (source === undefined) {
    return;
  }
  const { checkpointId } = source;
  const place = join(root, `${number}-${Math.floor(random() * 1e9)}`);
  const op = testOp();
  if (pick < 0.4) {
    world.start(`upload-${number} ${checkpointId}`, (backend) => upload(backend, source, `${place}.ledger`));
  } else if (pick < 0.6) {
    world.start(`rm-${number} ${checkpointId}`, async (backend) => {
      // It stood still for longer than its list was valid.
      await ending(['CheckpointNotFound', 'StorageUnavailable'], () => removeCheckpoint(backend, checkpointId, op));
    });
  } else if (pick < 0.75) {
    world.start(`fetch-${number} ${checkpointId}`, async (backend) => {
      await ending(['CheckpointNotFound'], () => fetchCheckpoint({ checkpointId, backend, destDir: place, op }));
    });
  } else {
    world.start(`gc-${number}`, async (backend) => {
      await ending(['StorageUnavailable'], () => collect(backend, `c${number}`, op, sleep));
    });
  }
}

async function play(seed: number): Promise<void> {
  const random = randomOf(seed);
  const raw = await openLocalBackend(join(root, `store-${seed}`));
  const world = new Interleaving(raw, random, (ms) => vi.advanceTimersByTimeAsync(ms));
  let started = 0;
  while ((started < OPERATIONS || world.running > 0) && world.violations.length === 0) {
    while (started < OPERATIONS && world.running < AT_ONCE) {
      started += 1;
      await operate(world, random, started);
    }
    if (random() < 0.004) {
      world.kill();
    }
    if (random() < 0.004) {
      // A reader that stands still for longer than its lease has lost its claim.
      world.stall(/^fetch/);
    }
    await world.step();
  }
  expect({ seed, violations: world.violations, trace: world.violations.length === 0 ? [] : world.trace }).toEqual({
    seed,
    violations: [],
    trace: [],
  });

  // All is quiet: leases and lists of the dead run out, and one more collection leaves nothing.
  await vi.advanceTimersByTimeAsync(30 * 3_600_000);
  await collect(raw, 'last', testOp(), (ms) => vi.advanceTimersByTimeAsync(ms));
  expect({ seed, ...(await faultsOf(raw)) }).toEqual({ seed, missing: [], left: [], damaged: [] });
  const { checkpoints } = await listStored(raw, testOp());
  for (const { checkpointId } of checkpoints) {
    await verifyRemote({ checkpointId, backend: raw, op: testOp() });
  }
}

describe('a store that many use at once', () => {
  it('loses nothing that is published, and keeps nothing that is not', { timeout: 3_600_000 }, async () => {
    const first = Number(process.env['SEED'] ?? 1);
    for (let seed = first; seed < first + times(200); seed += 1) {
      await play(seed);
      await rm(join(root, `store-${seed}`), { recursive: true, force: true });
    }
  });
});
