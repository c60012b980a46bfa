import { spawn } from 'node:child_process';
import { chmod, mkdir, mkdtemp, readdir, rm, truncate, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { noise, testOp } from '../../test/harness/checkpoint-dir.ts';
import { seeded } from '../../test/harness/random.ts';
import { openLocalBackend } from '../backend/local.ts';
import { indexKey, packKey } from '../keys.ts';
import { openTier } from './open.ts';
import type { EvictionGuard, Tier } from './tier.ts';

/** On a machine that may be busy. */
const SLOW_MS = 60_000;
const { log } = testOp();
let root = '';
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-tier-'));
});
afterEach(() => rm(root, { recursive: true, force: true }));

const pack = (number: number): string => number.toString(16).padStart(32, '0');
const open = (budgetBytes: number): Promise<Tier> => openTier({ name: 'nvme', dir: root, budgetBytes }, log);

/** A guard for which every pack may go but for those named. */
function guard(only: ReadonlySet<string> = new Set()): EvictionGuard {
  return {
    mayEvictPack: (_, id) => Promise.resolve(!only.has(id)),
    mayEvictCheckpoint: () => Promise.resolve(true),
  };
}

describe('a tier', () => {
  it('evicts the pack that was used least recently, with its index', async () => {
    const tier = await open(350);
    for (const number of [1, 2, 3]) {
      await tier.store(packKey(pack(number)), noise(100, `${number}`), guard());
      await tier.store(indexKey(pack(number)), noise(10, `${number}`), guard());
    }
    await tier.read(packKey(pack(1)), { range: { offset: 0, bytes: 10 } });

    await tier.store(packKey(pack(4)), noise(100, '4'), guard());

    expect([...tier.packs().keys()].sort()).toEqual([1, 3, 4].map(pack));
    expect(tier.bytesOf(indexKey(pack(2)))).toBeUndefined();
    expect(await readdir(join(root, 'packs'))).toEqual([1, 3, 4].map(pack));
  });

  it('takes nothing larger than its budget and evicts nothing for it', async () => {
    const tier = await open(100);
    await tier.store(packKey(pack(1)), noise(80, '1'), guard());

    expect(await tier.store(packKey(pack(2)), noise(101, '2'), guard())).toBe(false);

    expect([...tier.packs().keys()]).toEqual([pack(1)]);
  });

  it('evicts neither what is pinned, nor what is held, nor the only copy', async () => {
    const tier = await open(300);
    for (const number of [1, 2, 3]) {
      await tier.store(packKey(pack(number)), noise(100, `${number}`), guard());
    }
    await tier.pins.add({ checkpointId: 'ck-1', packs: [pack(1)] });
    const release = tier.holds.add([pack(2)]);
    const only = guard(new Set([pack(3)]));

    expect(await tier.store(packKey(pack(4)), noise(100, '4'), only)).toBe(false);
    release();
    expect(await tier.store(packKey(pack(4)), noise(100, '4'), only)).toBe(true);
    expect([...tier.packs().keys()].sort()).toEqual([1, 3, 4].map(pack));
    expect(tier.state()).toMatchObject({
      usedBytes: 300,
      pinnedBytes: 100,
      packs: 3,
      pins: [{ checkpointId: 'ck-1' }],
    });
  });

  it('evicts a pack whose pin has expired or was taken away', async () => {
    const tier = await open(200);
    await tier.store(packKey(pack(1)), noise(100, '1'), guard());
    await tier.store(packKey(pack(2)), noise(100, '2'), guard());
    await tier.pins.add({ checkpointId: 'ck-1', packs: [pack(1)], expiresAt: new Date(Date.now() - 1).toISOString() });
    await tier.pins.add({ checkpointId: 'ck-2', packs: [pack(2)] });

    expect(await tier.store(packKey(pack(3)), noise(100, '3'), guard())).toBe(true);
    expect([...tier.packs().keys()]).toEqual([pack(2), pack(3)]);
    expect(await tier.pins.remove('ck-2')).toBe(true);
    expect(await tier.store(packKey(pack(4)), noise(150, '4'), guard())).toBe(true);
    expect([...tier.packs().keys()]).toEqual([pack(4)]);
  });

  it('finds objects, pins and the order of use again when it is opened anew', async () => {
    const first = await open(1000);
    for (const number of [1, 2, 3]) {
      await first.store(packKey(pack(number)), noise(100, `${number}`), guard());
      const used = new Date(Date.now() - [0, 300_000, 100_000, 200_000][number]!);
      await utimes(join(root, packKey(pack(number))), used, used);
    }
    await first.pins.add({ checkpointId: 'ck-1', packs: [pack(1)] });
    await writeFile(join(root, '.tmp/half'), 'of a dead writer');

    const second = await open(250);

    expect([...second.packs().keys()]).toEqual([1, 3, 2].map(pack));
    expect(await readdir(join(root, '.tmp'))).toEqual([]);
    await second.trim(guard());
    expect([...second.packs().keys()]).toEqual([pack(1), pack(2)]);
  });

  it('never lets concurrent reservations exceed the budget', async () => {
    const tier = await open(250);

    const got = await Promise.all([1, 2, 3, 4].map(() => tier.reserve(100, guard())));

    expect(got.filter((room) => room !== undefined)).toHaveLength(2);
    got.forEach((room) => room?.release());
    got.forEach((room) => room?.release());
    expect(await tier.reserve(250, guard())).toBeDefined();
    expect(await tier.reserve(1, guard())).toBeUndefined();
  });

  it('drops an object that is not as long as it was, and one that is gone', async () => {
    const tier = await open(1000);
    await tier.store(packKey(pack(1)), noise(100, '1'), guard());
    await tier.store(packKey(pack(2)), noise(100, '2'), guard());
    await truncate(join(root, packKey(pack(1))), 50);
    await rm(join(root, packKey(pack(2))));

    expect(await tier.read(packKey(pack(1)))).toBeUndefined();
    expect(await tier.read(packKey(pack(2)), { range: { last: 5 } })).toBeUndefined();

    expect(tier.state()).toMatchObject({ usedBytes: 0, objects: 0 });
  });

  it('takes nothing for a while after its disk refused an object, and stays readable', async () => {
    const tier = await open(1000);
    await tier.store(packKey(pack(1)), noise(100, '1'), guard());
    await rm(join(root, 'index'), { force: true });
    await writeFile(join(root, 'index'), 'a file in the place of a directory');

    expect(await tier.store(indexKey(pack(1)), noise(10, 'i'), guard())).toBe(false);
    expect(await tier.store(packKey(pack(2)), noise(100, '2'), guard())).toBe(false);
    expect(await tier.read(packKey(pack(1)))).toEqual(new Uint8Array(noise(100, '1')));
    expect(tier.state()).toMatchObject({ usedBytes: 100 });
  });

  it('refuses a directory that holds something else, such as a store, and changes nothing there', async () => {
    const store = await openLocalBackend(root);
    await store.put(packKey(pack(1)), noise(100, '1'));
    await writeFile(join(root, '.tmp/half'), 'of a writer that lives');

    await expect(open(50)).rejects.toMatchObject({ type: 'InvalidInput' });

    expect(await store.head(packKey(pack(1)))).toMatchObject({ bytes: 100 });
    expect(await readdir(join(root, '.tmp'))).toEqual(['half']);
  });

  it('ignores files that are no objects of a tier', async () => {
    await mkdir(join(root, 'lost+found'), { mode: 0o000 });
    await open(10);
    await mkdir(join(root, 'packs'), { recursive: true });
    await writeFile(join(root, 'packs/notes'), 'mine');
    await mkdir(join(root, 'pins'));
    await writeFile(join(root, 'pins/ck-1.json'), 'no pin');
    await chmod(join(root, 'pins'), 0o700);

    const tier = await open(10);

    expect(tier.state()).toMatchObject({ usedBytes: 0, objects: 0, pins: [] });
  });

  it.each([1, 2, 3, 4, 5, 6])(
    'keeps to its budget and its model through random use, seed %i',
    { timeout: SLOW_MS },
    async (seed) => {
      const next = seeded(seed);
      const pick = (count: number): number => Math.floor(next() * count);
      const budget = 1000;
      let tier = await open(budget);
      const pinned = new Set<string>();
      for (let step = 0; step < 150; step += 1) {
        const id = pack(pick(12));
        const bytes = noise(50 + ((Number.parseInt(id, 16) * 37) % 300), id);
        switch (pick(8)) {
          case 0:
            tier = await open(budget);
            break;
          case 1:
            await tier.drop(packKey(id));
            break;
          case 2:
            await tier.pins.add({ checkpointId: `ck-${pick(2)}`, packs: [id] });
            break;
          case 3:
            await tier.pins.remove(`ck-${pick(2)}`);
            break;
          case 4:
          case 5: {
            const found = await tier.read(packKey(id));
            expect(found === undefined || Buffer.compare(found, bytes) === 0).toBe(true);
            break;
          }
          default: {
            pinned.clear();
            [...tier.packs().keys()].filter((one) => tier.pins.has(one)).forEach((one) => pinned.add(one));
            const isTaken = await Promise.all([
              tier.store(packKey(id), bytes, guard()),
              tier.store(indexKey(id), bytes.subarray(0, 20), guard()),
            ]);
            expect(isTaken[0]).toBe(tier.bytesOf(packKey(id)) !== undefined);
            pinned.forEach((one) => expect(tier.bytesOf(packKey(one))).toBeDefined());
          }
        }
        const onDisk = [...(await sizes('packs')), ...(await sizes('index'))].reduce((sum, size) => sum + size, 0);
        expect(tier.state().usedBytes).toBe(onDisk);
        expect(onDisk).toBeLessThanOrEqual(budget);
      }
    },
  );

  it('has whole objects only after its process was killed while it wrote', { timeout: SLOW_MS }, async () => {
    const module = new URL('./open.ts', import.meta.url).pathname;
    const code = `
      const { openTier } = await import(${JSON.stringify(module)});
      const quiet = () => undefined;
      const log = { debug: quiet, info: quiet, warn: quiet, error: quiet };
      const tier = await openTier({ name: 'nvme', dir: ${JSON.stringify(root)}, budgetBytes: 1e9 }, log);
      const guard = { mayEvictPack: async () => true, mayEvictCheckpoint: async () => true };
      console.log('ready');
      for (let n = 0; ; n += 1) {
        const id = n.toString(16).padStart(32, '0');
        await tier.store('packs/' + id, new Uint8Array(8 * 2 ** 20).fill(n % 251), guard);
      }`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: ['ignore', 'pipe', 'ignore'] });
    const gone = new Promise((resolve) => child.once('exit', resolve));
    await new Promise((resolve) => child.stdout.once('data', resolve));
    while ((await sizes('packs')).length < 3) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }

    child.kill('SIGKILL');
    await gone;

    const tier = await open(1e9);
    expect(await readdir(join(root, '.tmp'))).toEqual([]);
    for (const [id, bytes] of tier.packs()) {
      const found = await tier.read(packKey(id));
      expect(bytes).toBe(8 * 2 ** 20);
      expect(new Set(found).size).toBe(1);
    }
  });
});

async function sizes(dir: string): Promise<number[]> {
  const { stat } = await import('node:fs/promises');
  const names = await readdir(join(root, dir)).catch(() => []);
  return Promise.all(names.map(async (name) => (await stat(join(root, dir, name))).size));
}
