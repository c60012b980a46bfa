import { spawn } from 'node:child_process';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Manifest } from '../../core/checkpoint/manifest.ts';
import { watch, type Watched } from '../../test/harness/backends.ts';
import { makeCheckpoint, testOp } from '../../test/harness/checkpoint-dir.ts';
import { seeded } from '../../test/harness/random.ts';
import { times } from '../../test/harness/soak.ts';
import type { Backend } from '../backend/backend.ts';
import { openLocalBackend } from '../backend/local.ts';
import { getManifest } from '../catalog.ts';
import { chunksOf } from '../chunk-list.ts';
import { publishManifest } from '../publish.ts';
import { planRead } from '../read-plan.ts';
import { uploadCheckpoint } from '../upload.ts';
import { openTier, openTiers } from './open.ts';
import { prefetchCheckpoint } from './prefetch.ts';
import { findResidency, segmentResidency } from './residency.ts';
import { TieredBackend } from './tiered.ts';

/** Starts other processes, on a machine that may be busy. */
const SLOW_MS = 60_000;
const { log } = testOp();
let root = '';
let place: Backend;
let store: Watched;
let packBytes = 0;
let opened: TieredBackend[] = [];
let manifest: Manifest;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-prefetch-'));
  opened = [];
  place = await openLocalBackend(join(root, 'store'));
  store = watch(place);
  const dir = join(root, 'source');
  manifest = await makeCheckpoint(dir, 'ck-1');
  await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend: place, op: testOp(), packBytes: 300_000 });
  await publishManifest({ checkpointId: 'ck-1', dir, backend: place, op: testOp() });
  packBytes = (await getManifest(place, 'ck-1')).manifest.packs.reduce((sum, [, bytes]) => sum + bytes, 0);
});
afterEach(async () => {
  await Promise.all(opened.map((backend) => backend.close()));
  await rm(root, { recursive: true, force: true });
});

async function tiered(budgets: { ram?: number; nvme?: number }, from: Backend = store): Promise<TieredBackend> {
  const tiers = [];
  for (const name of ['ram', 'nvme'] as const) {
    const budgetBytes = budgets[name];
    if (budgetBytes !== undefined) {
      tiers.push(await openTier({ name, dir: join(root, name), budgetBytes }, log));
    }
  }
  const backend = new TieredBackend({ store: from, tiers, peers: [], log });
  opened.push(backend);
  return backend;
}

const gets = (prefix: string): number =>
  store.calls.filter(({ name, key }) => name === 'get' && key.startsWith(prefix)).length;

/** A process that prefetches and begins anew when it is done. */
function childCode(): string {
  const at = (path: string): string => JSON.stringify(new URL(path, import.meta.url).href);
  return `
    const { openLocalBackend } = await import(${at('../backend/local.ts')});
    const { openTier } = await import(${at('./open.ts')});
    const { TieredBackend } = await import(${at('./tiered.ts')});
    const { prefetchCheckpoint } = await import(${at('./prefetch.ts')});
    const quiet = () => undefined;
    const log = { debug: quiet, info: quiet, warn: quiet, error: quiet };
    const op = { signal: new AbortController().signal, log, progress: quiet };
    const root = ${JSON.stringify(root)};
    const tier = await openTier({ name: 'nvme', dir: root + '/nvme', budgetBytes: 1e9 }, log);
    const store = await openLocalBackend(root + '/store');
    const backend = new TieredBackend({ store, tiers: [tier], peers: [], log });
    console.log('ready');
    for (;;) {
      await prefetchCheckpoint({ checkpointId: 'ck-1', backend, tier: 'nvme', op });
      for (const id of tier.packs().keys()) {
        await tier.drop('packs/' + id);
      }
    }`;
}

describe('prefetchCheckpoint', () => {
  it('brings every pack with its index, tells how far it is, and brings nothing twice', async () => {
    const backend = await tiered({ nvme: 1e9 });
    const op = testOp();

    const first = await prefetchCheckpoint({ checkpointId: 'ck-1', backend, tier: 'nvme', op });
    store.calls.length = 0;
    const second = await prefetchCheckpoint({ checkpointId: 'ck-1', backend, tier: 'nvme', op: testOp() });

    expect(first).toEqual({ bytes: packBytes, presentBytes: 0, from: { store: packBytes } });
    expect(second).toEqual({ bytes: packBytes, presentBytes: packBytes, from: {} });
    expect(op.seen.at(-1)).toEqual({ phase: 'fetching', bytesDone: packBytes, bytesTotal: packBytes });
    expect([gets('packs/'), gets('index/')]).toEqual([0, 0]);
    await planRead(backend, (await getManifest(backend, 'ck-1')).manifest, testOp());
    expect(gets('index/')).toBe(0);
  });

  it('takes from nvme what is to be in ram', async () => {
    const backend = await tiered({ ram: 1e9, nvme: 1e9 });
    await prefetchCheckpoint({ checkpointId: 'ck-1', backend, tier: 'nvme', op: testOp() });
    store.calls.length = 0;

    const prefetched = await prefetchCheckpoint({ checkpointId: 'ck-1', backend, tier: 'ram', op: testOp() });

    expect(prefetched.from).toEqual({ nvme: packBytes });
    expect(gets('packs/')).toBe(0);
  });

  it('goes on where an attempt that was cancelled ended', async () => {
    const cancel = new AbortController();
    let packs = 0;
    const slow = watch(place, async ({ name, key }, proceed) => {
      await proceed();
      packs += name === 'get' && key.startsWith('packs/') ? 1 : 0;
      if (packs === 2) {
        cancel.abort(new Error('cancelled by the test'));
      }
    });
    const first = await tiered({ nvme: 1e9 }, slow);
    const attempt = prefetchCheckpoint({
      checkpointId: 'ck-1',
      backend: first,
      tier: 'nvme',
      op: testOp(cancel.signal),
    });
    await expect(attempt).rejects.toThrow('cancelled by the test');
    await first.close();

    const second = await tiered({ nvme: 1e9 });
    const prefetched = await prefetchCheckpoint({ checkpointId: 'ck-1', backend: second, tier: 'nvme', op: testOp() });

    expect(prefetched.presentBytes).toBeGreaterThan(0);
    expect(prefetched.presentBytes + (prefetched.from['store'] ?? 0)).toBe(packBytes);
  });

  it(
    'goes on where a process that was killed ended, and leaves whole packs only',
    { timeout: SLOW_MS * times(100) },
    async () => {
      const next = seeded(17);
      for (let round = 0; round < times(100); round += 1) {
        const child = spawn(process.execPath, ['--input-type=module', '-e', childCode()], {
          stdio: ['ignore', 'pipe', 'ignore'],
        });
        const gone = new Promise((resolve) => child.once('exit', resolve));
        await new Promise((resolve) => child.stdout.once('data', resolve));
        await sleep(next() * 200);
        child.kill('SIGKILL');
        await gone;
        const backend = await tiered({ nvme: 1e9 });
        for (const id of backend.tiers[0]?.packs().keys() ?? []) {
          expect(await backend.tiers[0]?.read(`packs/${id}`)).toEqual(await place.get(`packs/${id}`));
        }
        await backend.close();
      }

      const backend = await tiered({ nvme: 1e9 });
      await prefetchCheckpoint({ checkpointId: 'ck-1', backend, tier: 'nvme', op: testOp() });

      expect(backend.tiers[0]?.packs().size).toBe((await getManifest(place, 'ck-1')).manifest.packs.length);
      expect(await readdir(join(root, 'nvme/.tmp'))).toEqual([]);
    },
  );

  it('keeps what is pinned, and makes no room from it', async () => {
    const backend = await tiered({ nvme: packBytes + 20_000 });
    await prefetchCheckpoint({ checkpointId: 'ck-1', backend, tier: 'nvme', pin: {}, op: testOp() });

    await backend.put('packs/' + '1'.repeat(32), new Uint8Array(100_000));

    const { tiers } = await findResidency(backend, backend.tiers, 'ck-1', testOp().signal);
    expect(tiers).toEqual([
      { tier: 'nvme', packs: backend.tiers[0]?.packs().size, bytes: packBytes, pinned: 'always' },
    ]);
    expect(backend.tiers[0]?.state().pinnedBytes).toBeGreaterThan(packBytes);
  });

  it('refuses a checkpoint larger than the tier, a tier that is not there, a checkpoint that is not there', async () => {
    const backend = await tiered({ nvme: packBytes - 1 });
    const request = { checkpointId: 'ck-1', backend, tier: 'nvme', op: testOp() } as const;

    await expect(prefetchCheckpoint(request)).rejects.toMatchObject({ type: 'DiskFull' });
    await expect(prefetchCheckpoint({ ...request, tier: 'ram' })).rejects.toMatchObject({ type: 'InvalidInput' });
    await expect(prefetchCheckpoint({ ...request, checkpointId: 'ck-2' })).rejects.toMatchObject({
      type: 'CheckpointNotFound',
    });
    expect(backend.tiers[0]?.packs().size).toBe(0);
  });

  it('names the pack that the store has lost', async () => {
    const [lost = ''] = (await getManifest(place, 'ck-1')).manifest.packs[0] ?? [];
    await place.delete(`packs/${lost}`);
    const backend = await tiered({ nvme: 1e9 });

    const attempt = prefetchCheckpoint({ checkpointId: 'ck-1', backend, tier: 'nvme', op: testOp() });

    await expect(attempt).rejects.toThrow(lost);
    await expect(attempt).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
  });
});

describe('residency', () => {
  it('of a segment counts the chunks of its range by tier', async () => {
    const backend = await tiered({ ram: 1e9, nvme: 1e9 });
    const published = (await getManifest(backend, 'ck-1')).manifest;
    const plan = await planRead(backend, published, testOp());
    const file = 'fs/rootfs-diff.tar';
    const listed = manifest.files.find(({ path }) => path === file);
    const chunks = listed === undefined ? [] : [...chunksOf(listed)];
    const bytes = listed?.bytes ?? 0;

    const before = segmentResidency(backend.tiers, plan, { file, offset: 0, bytes });
    await prefetchCheckpoint({ checkpointId: 'ck-1', backend, tier: 'nvme', op: testOp() });
    const after = segmentResidency(backend.tiers, plan, { file, offset: 0, bytes });
    const oneByte = segmentResidency(backend.tiers, plan, { file, offset: 150_000, bytes: 1 });

    expect(before.tiers.map((tier) => tier.chunks)).toEqual([0, 0]);
    expect(after.chunks).toBe(chunks.length);
    expect(after.tiers[1]).toMatchObject({
      tier: 'nvme',
      chunks: after.chunks,
      packs: after.packs,
      bytes: after.bytes,
    });
    expect(oneByte).toMatchObject({ chunks: 1, packs: 1 });
  });
});

describe('openTiers', () => {
  it('refuses a ram tier that is not on a tmpfs, with the command that mounts one', async () => {
    const settings = { ram: { dir: join('/var/tmp', `kybernate-ram-${process.pid}`), budgetBytes: 4096 } };

    const opening = openTiers(settings, log);

    await expect(opening).rejects.toMatchObject({ type: 'Incompatible', details: { remedy: /^mount -t tmpfs/ } });
    await rm(settings.ram.dir, { recursive: true });
  });

  it('opens a ram tier on a tmpfs', async () => {
    const dir = await mkdtemp('/dev/shm/kybernate-ram-');
    const tiers = await openTiers({ ram: { dir, budgetBytes: 1e6 } }, log);
    const backend = new TieredBackend({ store, tiers, peers: [], log });
    opened.push(backend);

    await prefetchCheckpoint({ checkpointId: 'ck-1', backend, tier: 'ram', op: testOp() });

    expect(backend.tiers[0]?.state()).toMatchObject({ tier: 'ram', dir });
    await rm(dir, { recursive: true });
  });
});
