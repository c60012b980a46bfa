import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { open as openFile, mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Manifest } from '../../core/checkpoint/manifest.ts';
import { KybernateError } from '../../core/errors.ts';
import { watch, type BackendCall, type Watched } from '../../test/harness/backends.ts';
import { makeCheckpoint, noise, sampleFiles, testOp } from '../../test/harness/checkpoint-dir.ts';
import { seeded } from '../../test/harness/random.ts';
import type { Backend } from '../backend/backend.ts';
import { openLocalBackend } from '../backend/local.ts';
import { getManifest } from '../catalog.ts';
import { fetchCheckpoint } from '../fetch.ts';
import { indexKey, manifestKey, packKey } from '../keys.ts';
import { localKey } from '../crypto/key-ring.ts';
import { withKeys } from '../crypto/vault.ts';
import { publishManifest } from '../publish.ts';
import { removeCheckpoint } from '../remove.ts';
import { uploadCheckpoint } from '../upload.ts';
import { verifyRemote } from '../verify.ts';
import type { Peer } from './bring.ts';
import { packsOf as packsInManifest } from './residency.ts';
import { residentBackend } from './resident.ts';
import { openTier } from './open.ts';
import type { Tier } from './tier.ts';
import { TieredBackend } from './tiered.ts';

/** On a machine that may be busy. */
const SLOW_MS = 60_000;
const { log } = testOp();
let root = '';
let place: Backend;
let store: Watched;
let opened: TieredBackend[] = [];
/** what the store does with a call; set by a test */
let around: (call: BackendCall) => void = () => undefined;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-tiered-'));
  place = await openLocalBackend(join(root, 'store'));
  around = () => undefined;
  store = watch(place, async (call, proceed) => {
    around(call);
    return proceed();
  });
  opened = [];
});
afterEach(async () => {
  await Promise.all(opened.map((backend) => backend.close()));
  await rm(root, { recursive: true, force: true });
});

interface Wish {
  readonly ram?: number;
  readonly nvme?: number;
  readonly peers?: readonly Peer[];
  readonly dir?: string;
  readonly minBytes?: number;
  readonly minAgeMs?: number;
}

async function tiered({
  ram,
  nvme = 1e9,
  peers = [],
  dir = 'node',
  minBytes = 1,
  minAgeMs = 0,
}: Wish = {}): Promise<TieredBackend> {
  const tiers: Tier[] = [];
  if (ram !== undefined) {
    tiers.push(await openTier({ name: 'ram', dir: join(root, dir, 'ram'), budgetBytes: ram }, log));
  }
  if (nvme > 0) {
    tiers.push(await openTier({ name: 'nvme', dir: join(root, dir, 'nvme'), budgetBytes: nvme }, log));
  }
  const backend = new TieredBackend({ store, tiers, peers, log, policy: { minBytes, minAgeMs } });
  opened.push(backend);
  return backend;
}

async function publish(backend: Backend, checkpointId = 'ck-1'): Promise<Manifest> {
  const dir = join(root, `source-${checkpointId}`);
  const manifest = await makeCheckpoint(dir, checkpointId, sampleFiles(checkpointId));
  await uploadCheckpoint({ checkpointId, dir, manifest, backend, op: testOp(), packBytes: 300_000 });
  await publishManifest({ checkpointId, dir, backend, op: testOp() });
  return manifest;
}

/** Reads all of ck-1 and waits for what that sets going. */
async function verify(backend: TieredBackend): Promise<void> {
  await verifyRemote({ checkpointId: 'ck-1', backend, op: testOp() });
  await backend.settled();
}

/** Packs of ck-1. */
async function packsOf(backend: Backend, id = 'ck-1'): Promise<string[]> {
  return (await getManifest(backend, id)).manifest.packs.map(([pack]) => pack);
}

const gets = (prefix: string): BackendCall[] =>
  store.calls.filter(({ name, key }) => name === 'get' && key.startsWith(prefix));

async function flipBit(path: string, at: number): Promise<void> {
  const handle = await openFile(path, 'r+');
  const byte = Buffer.alloc(1);
  await handle.read(byte, 0, 1, at);
  byte[0] = (byte[0] ?? 0) ^ 1;
  await handle.write(byte, 0, 1, at);
  await handle.close();
}

function away(call: BackendCall): never {
  throw new KybernateError('StorageUnavailable', `the test took the store away (${call.name})`);
}

const pack = (number: number): string => number.toString(16).padStart(32, '0');

describe('writes through tiers', () => {
  it('put packs, indexes, file list and manifest into nvme and the store alike', async () => {
    const backend = await tiered();

    await publish(backend);

    for await (const { key, bytes } of place.list('')) {
      if (!key.startsWith('leases/')) {
        expect(backend.tiers[0]?.bytesOf(key), key).toBe(bytes);
      }
    }
    store.calls.length = 0;
    await verify(backend);
    expect([...gets('packs/'), ...gets('index/')]).toEqual([]);
  });

  it('fail when the store fails, and leave nothing in the tier', async () => {
    const backend = await tiered();
    around = away;

    await expect(backend.put(packKey(pack(1)), noise(100, '1'))).rejects.toMatchObject({ type: 'StorageUnavailable' });

    expect(backend.tiers[0]?.state()).toMatchObject({ objects: 0, usedBytes: 0 });
  });

  it('succeed when the tier is full, and when its disk fails', async () => {
    const backend = await tiered({ nvme: 50 });
    await backend.put(packKey(pack(1)), noise(100, '1'));
    await rm(join(root, 'node'), { recursive: true });
    await backend.put(packKey(pack(2)), noise(40, '2'));

    expect(await backend.get(packKey(pack(1)))).toEqual(new Uint8Array(noise(100, '1')));
    expect(await backend.get(packKey(pack(2)))).toEqual(new Uint8Array(noise(40, '2')));
  });
});

describe('reads through tiers', () => {
  it('bring each pack once, however many read it, and later ones do not ask the store for it', async () => {
    await publish(place);
    const backend = await tiered();
    store.calls.length = 0;

    await Promise.all([verify(backend), verify(backend), verify(backend)]);

    const packs = await packsOf(place);
    expect(packs.length).toBeGreaterThan(2);
    expect(
      gets('packs/')
        .map(({ key }) => key)
        .sort(),
    ).toEqual(packs.map(packKey).sort());
    expect([...(backend.tiers[0]?.packs().keys() ?? [])].sort()).toEqual([...packs].sort());
    store.calls.length = 0;
    await verify(backend);
    expect([...gets('packs/'), ...gets('index/')]).toEqual([]);
  });

  it('move what is read again from nvme to ram', async () => {
    await publish(place);
    const first = await tiered({ ram: 1e9, minAgeMs: 60_000 });
    await verify(first);
    expect(first.tiers.map((tier) => tier.packs().size)).toEqual([0, (await packsOf(place)).length]);
    const backend = await tiered({ ram: 1e9 });

    await verify(backend);

    expect(backend.tiers.map((tier) => tier.packs())).toEqual([first.tiers[1]?.packs(), first.tiers[1]?.packs()]);
    await rm(join(root, 'node/nvme/packs'), { recursive: true });
    store.calls.length = 0;
    await verify(backend);
    expect(gets('packs/')).toEqual([]);
  });

  it('read single chunks past the tier, and bring the pack when they become many', async () => {
    await backendWithPack();
    const backend = await tiered({ minBytes: 1000 });
    const range = { offset: 500, bytes: 300 };

    const first = await backend.get(packKey(pack(1)), { range });
    const second = await backend.get(packKey(pack(1)), { range });
    expect(backend.tiers[0]?.packs().size).toBe(0);
    const fourth = [await backend.get(packKey(pack(1)), { range }), await backend.get(packKey(pack(1)), { range })][1];

    expect([first, second, fourth]).toEqual([0, 1, 2].map(() => new Uint8Array(noise(5000, '1').subarray(500, 800))));
    await expect.poll(() => backend.tiers[0]?.packs().size).toBe(1);
  });

  it.each([
    ['one flipped bit', (path: string) => flipBit(path, 5000)],
    ['a flipped bit in the index of a pack', (path: string) => flipBit(path.replace('/packs/', '/index/'), 40)],
    ['a copy of another pack', (path: string, other: string) => swap(path, other)],
  ])('heal %s in a tier from the store', async (_, damage) => {
    await publish(place);
    const backend = await tiered();
    await verify(backend);
    const packs = await packsOf(place);
    const dir = join(root, 'node/nvme/packs');
    await damage(join(dir, packs[0] ?? ''), join(dir, packs[1] ?? ''));

    const fetched = await fetchCheckpoint({ checkpointId: 'ck-1', backend, destDir: join(root, 'dest'), op: testOp() });

    expect(fetched.bytes).toBeGreaterThan(0);
    await verify(backend);
    await verifyRemote({ checkpointId: 'ck-1', backend: await tiered(), op: testOp() });
  });

  it('name the damage when the store itself is damaged, and keep the whole copy of a tier', async () => {
    await publish(place);
    const backend = await tiered();
    await verify(backend);
    const [first = ''] = await packsOf(place);
    await flipBit(join(root, 'store/packs', first), 5000);

    await verify(backend);

    const fresh = await tiered({ dir: 'other' });
    await expect(verify(fresh)).rejects.toMatchObject({ type: 'CheckpointCorrupt', details: { pack: first } });
    expect(backend.tiers[0]?.bytesOf(packKey(first))).toBeDefined();
  });

  it('read past a tier that has no room', async () => {
    await publish(place);
    const backend = await tiered({ nvme: 1000 });

    await verify(backend);

    expect(backend.tiers[0]?.packs().size).toBe(0);
  });

  it('take the manifest from the store, and from the tier only while the store is away', async () => {
    await publish(place);
    const backend = await tiered();
    await verify(backend);

    around = away;
    expect(await backend.get(manifestKey('ck-1'))).toEqual(await place.get(manifestKey('ck-1')));
    around = () => {
      throw new KybernateError('StorageDenied', 'no entry');
    };
    await expect(backend.get(manifestKey('ck-1'))).rejects.toMatchObject({ type: 'StorageDenied' });
    around = () => undefined;
    await place.delete(manifestKey('ck-1'));

    expect(await backend.get(manifestKey('ck-1'))).toBeUndefined();
    around = away;
    await expect(backend.get(manifestKey('ck-1'))).rejects.toMatchObject({ type: 'StorageUnavailable' });
  });

  it('end when they are cancelled, while the pack goes on coming for others', async () => {
    await backendWithPack();
    const backend = await tiered();
    const reason = new Error('cancelled by the test');
    const gate = Promise.withResolvers<void>();
    store = watch(place, async (call, proceed) => {
      await (call.name === 'get' ? gate.promise : undefined);
      return proceed();
    });
    const slow = await tiered({ dir: 'slow' });
    const cancel = new AbortController();
    const reads = [slow.get(packKey(pack(1)), { signal: cancel.signal }), slow.get(packKey(pack(1)))] as const;

    cancel.abort(reason);

    await expect(reads[0]).rejects.toBe(reason);
    gate.resolve();
    expect(await reads[1]).toEqual(new Uint8Array(noise(5000, '1')));
    expect(backend.tiers[0]?.packs().size).toBe(0);
  });
});

describe('evictions', () => {
  it('ask the store first, once a pack, and keep a pack that the store does not say it has', async () => {
    const before = await tiered();
    await before.put(packKey(pack(1)), noise(100, '1'));
    const backend = await tiered({ nvme: 150 });
    store.calls.length = 0;
    around = (call) => (call.name === 'head' ? away(call) : undefined);

    await backend.put(packKey(pack(2)), noise(100, '2'));
    expect([...(backend.tiers[0]?.packs().keys() ?? [])]).toEqual([pack(1)]);
    around = () => undefined;
    await backend.put(packKey(pack(3)), noise(100, '3'));

    expect([...(backend.tiers[0]?.packs().keys() ?? [])]).toEqual([pack(3)]);
    expect(store.calls.filter(({ name }) => name === 'head')).toHaveLength(2);
  });

  it('keep a pack that the store has lost although a manifest names it', async () => {
    const before = await tiered();
    await publish(before);
    const packs = await packsOf(place);
    const [lost = ''] = packs;
    await place.delete(packKey(lost));

    const backend = await tiered({ nvme: 400_000 });
    await backend.put(packKey(pack(1)), noise(50_000, '1'));
    await backend.put(packKey(pack(2)), noise(50_000, '2'));

    expect([...(backend.tiers[0]?.packs().keys() ?? [])]).toContain(lost);
    expect(backend.tiers[0]?.packs().size).toBeLessThan(packs.length + 2);
    expect((await residentBackend(backend.tiers).get(packKey(lost)))?.length).toBeGreaterThan(0);
  });

  it('drop a pack that was collected in the store', async () => {
    const before = await tiered();
    await publish(before);
    await removeCheckpoint(place, 'ck-1', testOp());

    const backend = await tiered({ nvme: 100 });

    await expect.poll(() => backend.tiers[0]?.packs().size).toBe(0);
    expect(await readdir(join(root, 'node/nvme/packs'))).toEqual([]);
  });

  it('of what others have deleted from the store happen at the next tidying, pins included', async () => {
    const backend = await tiered({ ram: 1e9 });
    await publish(backend);
    await publish(backend, 'ck-2');
    await backend.tiers[1]?.pins.add({ checkpointId: 'ck-1', packs: await packsOf(place) });
    await backend.put(packKey(pack(1)), noise(100, 'of an upload that goes on'));
    const before = backend.tiers[1]?.packs().size ?? 0;
    await backend.tidy();
    expect(backend.tiers[1]?.packs().size).toBe(before);
    await removeCheckpoint(place, 'ck-1', testOp());

    await backend.tidy();

    const left = [...(backend.tiers[1]?.packs().keys() ?? [])];
    expect(left.length).toBeLessThan(before);
    expect(left.filter((id) => !isStored(id))).toEqual([]);
    expect(left).toEqual(expect.arrayContaining([...(await packsOf(place, 'ck-2')), pack(1)]));
    expect(backend.tiers[1]?.checkpoints()).toEqual(['ck-2']);
    expect(backend.tiers[1]?.pins.list()).toEqual([]);
  });

  it('take the pin with them: at once where it is seen here, and at the next look at the pins elsewhere', async () => {
    const backend = await tiered({ ram: 1e9 });
    const pins = backend.tiers[1]?.pins;
    for (const id of ['ck-1', 'ck-2', 'ck-3', 'ck-4']) {
      await publish(backend, id);
      await pins?.add({ checkpointId: id, packs: await packsOf(place, id) });
    }
    const left = (): string[] => pins?.list().map(({ checkpointId }) => checkpointId) ?? [];

    await removeCheckpoint(backend, 'ck-1', testOp());
    expect(left()).toEqual(['ck-2', 'ck-3', 'ck-4']);

    await removeCheckpoint(place, 'ck-2', testOp());
    expect(await backend.get(manifestKey('ck-2'))).toBeUndefined();
    expect(left()).toEqual(['ck-3', 'ck-4']);

    const gone = await packsOf(place, 'ck-3');
    await removeCheckpoint(place, 'ck-3', testOp());
    await backend.tidy('pins');
    expect(left()).toEqual(['ck-4']);
    expect(gone.filter((pack) => !isStored(pack) && backend.tiers[1]?.packs().has(pack))).toEqual([]);
    expect(await readdir(join(root, 'node/nvme/pins'))).toEqual(['ck-4.json']);
  });

  it('do not happen in a tidying to a pack that the store has lost, nor while the store is away', async () => {
    const backend = await tiered();
    await publish(backend);
    const [lost = ''] = await packsOf(place);
    await place.delete(packKey(lost));

    await backend.tidy();
    around = away;
    await expect(backend.tidy()).rejects.toMatchObject({ type: 'StorageUnavailable' });

    expect(backend.tiers[0]?.bytesOf(packKey(lost))).toBeGreaterThan(0);
  });

  it('of an object that is removed through the tiers happen at once', async () => {
    const backend = await tiered();
    await publish(backend);

    await removeCheckpoint(backend, 'ck-1', testOp());

    expect(backend.tiers[0]?.state()).toMatchObject({ objects: 0, usedBytes: 0 });
  });
});

describe('random use', () => {
  it.each([1, 2, 3, 4])(
    'gives the bytes of the store within the budgets, seed %i',
    { timeout: SLOW_MS },
    async (seed) => {
      const next = seeded(seed);
      const pick = (count: number): number => Math.floor(next() * count);
      const budgets = { ram: 600, nvme: 1500 };
      const model = new Map<string, Uint8Array>();
      let backend = await tiered(budgets);
      for (let step = 0; step < 100; step += 1) {
        const ids = Array.from({ length: 1 + pick(3) }, () => pack(pick(20)));
        switch (pick(8)) {
          case 0:
            await backend.close();
            backend = await tiered(budgets);
            break;
          case 1:
            await backend.delete(packKey(ids[0] ?? ''));
            model.delete(ids[0] ?? '');
            break;
          case 2:
            await damageOne(pick);
            break;
          case 3:
          case 4:
            // A pack never changes: its bytes follow from its id.
            await Promise.all(ids.map((id) => backend.put(packKey(id), contentOf(id))));
            ids.forEach((id) => model.set(id, contentOf(id)));
            break;
          default: {
            const offset = pick(100);
            const options = next() < 0.5 ? {} : { range: { offset, bytes: 1 + pick(200) } };
            const found = await Promise.all(ids.map((id) => backend.get(packKey(id), options)));
            const end = options.range === undefined ? 400 : offset + options.range.bytes;
            for (const [index, id] of ids.entries()) {
              const expected = model.get(id)?.subarray(options.range === undefined ? 0 : offset, end);
              const isRight = (bytes: Uint8Array | undefined): boolean =>
                bytes === undefined || expected === undefined
                  ? bytes === expected
                  : Buffer.compare(bytes, expected) === 0;
              // As a reader does that finds the digest wrong.
              const read = isRight(found[index])
                ? found[index]
                : await backend.get(packKey(id), { ...options, fresh: true });
              expect(isRight(read), `${id} at step ${step}`).toBe(true);
            }
          }
        }
        for (const tier of backend.tiers) {
          expect(tier.state().usedBytes).toBeLessThanOrEqual(tier.budgetBytes);
        }
      }
      await backend.settled();
      for (const { name, budgetBytes } of backend.tiers) {
        expect(await bytesBelow(join(root, 'node', name, 'packs'))).toBeLessThanOrEqual(budgetBytes);
      }
    },
  );

  /** Flips a bit of some copy. */
  async function damageOne(pick: (count: number) => number): Promise<void> {
    const dir = join(root, 'node', pick(2) === 0 ? 'ram' : 'nvme', 'packs');
    const names = await readdir(dir).catch(() => []);
    const name = names[pick(Math.max(1, names.length))];
    if (name !== undefined) {
      // An eviction may be faster.
      await flipBit(join(dir, name), pick(100)).catch(() => undefined);
    }
  }

  const contentOf = (id: string): Uint8Array => noise(100 + ((Number.parseInt(id, 16) * 37) % 300), id);

  async function bytesBelow(dir: string): Promise<number> {
    const names = await readdir(dir).catch(() => []);
    const sizes = await Promise.all(names.map(async (name) => (await stat(join(dir, name))).size));
    return sizes.reduce((sum, size) => sum + size, 0);
  }
});

describe('peers', () => {
  it('give packs that they have, so that the store is not asked for them', async () => {
    await publish(place);
    const near = await tiered({ dir: 'near' });
    await verify(near);
    const far = await tiered({ dir: 'far', peers: [{ node: 'near', backend: residentBackend(near.tiers) }] });
    store.calls.length = 0;

    await verify(far);

    expect(gets('packs/')).toEqual([]);
    expect(far.tiers[0]?.packs()).toEqual(near.tiers[0]?.packs());
  });

  it('whose packs are damaged, or who fail, cost no read its success', async () => {
    await publish(place);
    const near = await tiered({ dir: 'near' });
    await verify(near);
    for (const id of await packsOf(place)) {
      await flipBit(join(root, 'near/nvme/packs', id), 5000);
    }
    const broken = watch(place, () => Promise.reject(new KybernateError('StorageDenied', 'wrong token')));
    const peers = [
      { node: 'near', backend: residentBackend(near.tiers) },
      { node: 'broken', backend: broken },
    ];
    const far = await tiered({ dir: 'far', peers });

    await verify(far);

    expect(broken.calls).toHaveLength(1);
    for (const [id, bytes] of far.tiers[0]?.packs() ?? []) {
      expect(bytes).toBeGreaterThan(0);
      expect(await residentBackend(far.tiers).get(packKey(id))).toEqual(await place.get(packKey(id)));
    }
  });
});

const isStored = (id: string): boolean => existsSync(join(root, 'store/packs', id));

async function swap(path: string, other: string): Promise<void> {
  const { copyFile } = await import('node:fs/promises');
  await copyFile(other, path);
}

async function backendWithPack(): Promise<void> {
  await place.put(packKey(pack(1)), noise(5000, '1'));
  await place.put(indexKey(pack(1)), noise(10, 'i'));
}

describe('an encrypted checkpoint', () => {
  it('goes through tiers and peers as it is, and heals there', async () => {
    const key = localKey(randomBytes(32));
    const ring = { current: key, all: new Map([[key.id, key]]) };
    const near = await tiered({ dir: 'near' });
    await publish(withKeys(near, ring));
    await flipBit(join(root, 'near/nvme/packs', (await keysOfPacks(near))[0] ?? ''), 5000);
    const far = await tiered({ dir: 'far', peers: [{ node: 'near', backend: residentBackend(near.tiers) }] });
    withKeys(far, ring);

    await verify(near);
    await verify(far);

    expect(far.tiers[0]?.packs().size).toBe((await keysOfPacks(near)).length);
    for (const id of await keysOfPacks(far)) {
      expect(await residentBackend(far.tiers).get(packKey(id))).toEqual(await place.get(packKey(id)));
    }
  });
});

const keysOfPacks = async (backend: TieredBackend): Promise<string[]> =>
  (await packsInManifest(backend, 'ck-1', testOp().signal)).packs.map(([id]) => id);
