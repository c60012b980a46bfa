/*
 * Every damage that a disk, a network or somebody can do to an object of a store, at random places: verify finds it and
 * names the object, a fetch writes nothing, and a repair from a whole copy makes the store whole again. One store for
 * all cases: each begins with what the repair of the last one left.
 */
import { existsSync } from 'node:fs';
import { copyFile, cp, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { PlaceReport } from '../core/contract/verify.ts';
import { isKybernateError, messageOf } from '../core/errors.ts';
import { makeCheckpoint, noise, sampleFiles, testOp } from '../test/harness/checkpoint-dir.ts';
import { times } from '../test/harness/soak.ts';
import type { Backend } from './backend/backend.ts';
import { openLocalBackend } from './backend/local.ts';
import { getManifest } from './catalog.ts';
import { localKey } from './crypto/key-ring.ts';
import { unusablePacks } from './damaged.ts';
import { withKeys } from './crypto/vault.ts';
import { openDirectoryCopy } from './copy.ts';
import { exportCheckpoint } from './export.ts';
import { fetchCheckpoint } from './fetch.ts';
import { fileListObject } from './file-list.ts';
import { importCheckpoint } from './import.ts';
import { manifestKey } from './keys.ts';
import { readPackIndex } from './pack-index.ts';
import { publishManifest } from './publish.ts';
import { repairStore } from './repair.ts';
import { surveyDirectory, surveyStore } from './survey.ts';
import { openTiers } from './tiers/open.ts';
import { residentBackend } from './tiers/resident.ts';
import { TieredBackend } from './tiers/tiered.ts';
import { uploadCheckpoint } from './upload.ts';

const SEED = Number(process.env['KYBERNATE_SEED'] ?? 20_260_101);
const PACK_BYTES = 200_000;
const never = new AbortController().signal;
/** Threads, files and a machine that others use, too. */
const PATIENT = { timeout: 60_000 };

/** mulberry32: the same numbers for the same seed. */
function randomOf(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

type Random = ReturnType<typeof randomOf>;

let root = '';
let storeDir = '';
let backend: Backend;
const dirs = new Map<string, string>();

async function open(isEncrypted: boolean): Promise<void> {
  // In memory where there is some: hundreds of cases would wait for the disk to flush.
  root = await mkdtemp(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'kybernate-tamper-'));
  storeDir = join(root, 'store');
  backend = await openLocalBackend(storeDir);
  if (isEncrypted) {
    const key = localKey(noise(32, 'key'));
    withKeys(backend, { current: key, all: new Map([[key.id, key]]) });
  }
  // The second one shares chunks of the first, as the next checkpoint of a container does.
  await publish('ck-1', sampleFiles('one'));
  await publish('ck-2', {
    ...sampleFiles('one'),
    'criu/core-1.img': noise(900, 'two'),
    'fs/more': noise(250_000, 'two'),
  });
}

async function publish(checkpointId: string, files: Record<string, Buffer>, to = backend): Promise<void> {
  const dir = join(root, checkpointId);
  dirs.set(checkpointId, dir);
  const manifest = await makeCheckpoint(dir, checkpointId, files);
  const request = { checkpointId, dir, backend: to, op: testOp(), ledgerPath: join(root, `${checkpointId}.ledger`) };
  await uploadCheckpoint({ ...request, manifest, packBytes: PACK_BYTES });
  await publishManifest(request);
}

async function survey(checkpointId: string, mode: 'quick' | 'full' = 'full'): Promise<PlaceReport> {
  return (await surveyStore({ checkpointId, backend, mode, op: testOp() })).report;
}

/** Objects that this checkpoint needs, of all kinds alike. */
async function objectsOf(checkpointId: string): Promise<string[][]> {
  const { manifest } = await getManifest(backend, checkpointId);
  return [
    [manifestKey(checkpointId)],
    // A repair of an encrypted checkpoint leaves the old list to the garbage collection.
    [fileListObject(manifest).key],
    manifest.packs.map(([pack]) => `packs/${pack}`),
    manifest.packs.map(([pack]) => `index/${pack}`),
  ];
}

function pick<Item>(random: Random, items: readonly Item[]): Item {
  const item = items[random(items.length)];
  if (item === undefined) {
    throw new Error('nothing to choose from');
  }
  return item;
}

/** @returns false when this damage makes no difference here */
type Damage = (random: Random, key: string, bytes: Buffer, alike: readonly string[]) => Promise<boolean>;

async function replace(key: string, bytes: Uint8Array): Promise<boolean> {
  const before = await readFile(join(storeDir, key));
  await writeFile(join(storeDir, key), bytes);
  return Buffer.compare(before, bytes) !== 0;
}

const DAMAGES: Readonly<Record<string, Damage>> = {
  'a flipped bit': (random, key, bytes) => {
    const bit = random(bytes.length * 8);
    bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    return replace(key, bytes);
  },
  truncation: (random, key, bytes) => replace(key, bytes.subarray(0, random(bytes.length))),
  extension: (random, key, bytes) => replace(key, Buffer.concat([bytes, noise(1 + random(5000), `${random(1e9)}`)])),
  'bytes before the first': (random, key, bytes) => replace(key, Buffer.concat([noise(1 + random(600), 'x'), bytes])),
  'a block of zeros': (random, key, bytes) => {
    const at = random(bytes.length);
    return replace(key, Buffer.from(bytes).fill(0, at, Math.min(bytes.length, at + 1 + random(4096))));
  },
  'a swap with an object alike': async (random, key, bytes, alike) => {
    const other = pick(random, alike);
    await replace(key, await readFile(join(storeDir, other)));
    return replace(other, bytes);
  },
  'a swap of two chunks in the pack': async (random, key, bytes) => {
    const index = key.startsWith('packs/') ? await readPackIndex(backend, key.slice(6), never) : undefined;
    const entries = index?.entries ?? [];
    const [one, other] = [entries[random(entries.length)], entries[random(entries.length)]];
    if (one === undefined || other === undefined || one === other) {
      return false;
    }
    const [left, right] = one.offset < other.offset ? [one, other] : [other, one];
    const part = (from: number, to: number): Buffer => bytes.subarray(from, to);
    const swapped = Buffer.concat([
      part(0, left.offset),
      part(right.offset, right.offset + right.storedBytes),
      part(left.offset + left.storedBytes, right.offset),
      part(left.offset, left.offset + left.storedBytes),
      part(right.offset + right.storedBytes, bytes.length),
    ]);
    return replace(key, swapped);
  },
  'its absence': async (_random, key) => {
    await rm(join(storeDir, key));
    return true;
  },
  'the object of another checkpoint': async (_random, key) => {
    const from = key.replaceAll('ck-1', 'ck-0').replaceAll('ck-2', 'ck-1').replaceAll('ck-0', 'ck-2');
    if (from === key || !(await isThere(join(storeDir, from)))) {
      return false;
    }
    await copyFile(join(storeDir, from), join(storeDir, key));
    return true;
  },
};

async function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

/** Everything that a repair can do, as the workflow does it. */
async function repair(checkpointId: string, copies?: Backend): Promise<void> {
  for (let round = 0; round < 3 && !(await survey(checkpointId)).ok; round += 1) {
    const ledgerPath = join(root, `${checkpointId}.ledger`);
    await repairStore({
      checkpointId,
      dir: dirs.get(checkpointId),
      backend,
      op: testOp(),
      ledgerPath,
      packBytes: PACK_BYTES,
      ...(copies === undefined ? {} : { copies }),
    });
  }
}

/** What a tier has of the packs, most of it whole. */
async function copyOfPacks(random: Random, tier: string): Promise<Backend> {
  await rm(join(tier, 'packs'), { recursive: true, force: true });
  await cp(join(storeDir, 'packs'), join(tier, 'packs'), { recursive: true });
  const name = pick(random, await readdir(join(tier, 'packs')));
  const bytes = await readFile(join(tier, 'packs', name));
  bytes.fill(7, random(bytes.length));
  await writeFile(join(tier, 'packs', name), bytes);
  return openLocalBackend(tier);
}

async function expectNothingFetched(checkpointId: string, what: string): Promise<void> {
  const destDir = join(root, 'fetched', `checkpoint-${checkpointId}`);
  await mkdir(dirname(destDir), { recursive: true });
  const failure: unknown = await fetchCheckpoint({ checkpointId, backend, destDir, op: testOp() }).then(
    () => undefined,
    (error: unknown) => error,
  );
  if (failure === undefined) {
    // What a fetch does not need (a copy of an index, say) may be damaged: then all that it wrote is right.
    expect(await surveyDirectory({ dir: destDir, checkpointId, mode: 'full', op: testOp() }), what).toMatchObject({
      ok: true,
    });
    await rm(destDir, { recursive: true });
    return;
  }
  expect(
    isKybernateError(failure, 'CheckpointCorrupt') || isKybernateError(failure, 'CheckpointNotFound'),
    `${what}: ${messageOf(failure)}`,
  ).toBe(true);
  expect(await readdir(dirname(destDir)), what).toEqual([]);
}

describe.each([
  ['a stored checkpoint', false],
  ['an encrypted checkpoint', true],
])('%s', PATIENT, (_, isEncrypted) => {
  beforeAll(() => open(isEncrypted), PATIENT.timeout);
  afterAll(() => rm(root, { recursive: true, force: true }));

  it(`whose objects are damaged at random is found out, not fetched, and repaired (seed ${SEED})`, async () => {
    const random = randomOf(SEED);
    const cases = times(isEncrypted ? 2_500 : 5_000);
    const tier = join(root, 'tier');
    await openLocalBackend(tier);
    const seen = new Map<string, number>();
    for (let number = 0; number < cases; number += 1) {
      const checkpointId = pick(random, ['ck-1', 'ck-2']);
      const other = checkpointId === 'ck-1' ? 'ck-2' : 'ck-1';
      const kinds = await objectsOf(checkpointId);
      const alike = pick(random, kinds);
      const key = pick(random, alike);
      const name = pick(random, Object.keys(DAMAGES));
      const what = `case ${number}: ${name} in ${key}`;
      const copies = random(2) === 0 ? await copyOfPacks(random, tier) : undefined;
      if (!(await DAMAGES[name]?.(random, key, await readFile(join(storeDir, key)), alike))) {
        continue;
      }
      seen.set(name, (seen.get(name) ?? 0) + 1);

      const [ours, others] = [await survey(checkpointId), await survey(other)];
      const problems = [...ours.problems, ...others.problems];
      expect(ours.ok && others.ok, what).toBe(false);
      expect(
        problems.map(({ object, pack }) => object ?? `packs/${pack}`),
        what,
      ).toContain(key);
      await expectNothingFetched(checkpointId, what);

      await repair(checkpointId, copies);
      await repair(other);
      expect([await survey(checkpointId), await survey(other)], what).toMatchObject([{ ok: true }, { ok: true }]);
      // The store stays small: nobody reads what no manifest names any more.
      await forgetUnusedPacks();
    }
    expect([...seen.keys()].sort(), 'every kind of damage').toHaveLength(cases < 150 ? seen.size : 9);
  }, 3_600_000);

  it('is refused by quick looks where an object is missing or of another size', async () => {
    const [, lists = [], packs = [], indexes = []] = await objectsOf('ck-1');
    for (const key of [lists[0], packs[0], indexes[0]]) {
      const path = join(storeDir, key ?? '');
      const bytes = await readFile(path);
      await rm(path);
      expect(await survey('ck-1', 'quick'), key).toMatchObject({
        ok: false,
        problems: [{ kind: 'missing', object: key }],
      });
      await writeFile(path, bytes);
    }
    await writeFile(join(storeDir, packs[0] ?? ''), Buffer.alloc(10));
    expect(await survey('ck-1', 'quick')).toMatchObject({ ok: false, problems: [{ kind: 'size', object: packs[0] }] });
    await repair('ck-1');
    await repair('ck-2');
    expect(await survey('ck-1')).toMatchObject({ ok: true });
  });

  it('tells every problem at once', async () => {
    const [, , packs = []] = await objectsOf('ck-1');
    for (const key of packs) {
      // In the header, which is of every checkpoint that names the pack.
      const bytes = await readFile(join(storeDir, key));
      bytes[3] = (bytes[3] ?? 0) ^ 1;
      await writeFile(join(storeDir, key), bytes);
    }
    const report = await survey('ck-1');
    await repair('ck-1');
    await repair('ck-2');

    expect(new Set(report.problems.map(({ object }) => object))).toEqual(new Set(packs));
    expect(await survey('ck-1')).toMatchObject({ ok: true });
  });

  it('that was never there is not found, and is no damage', async () => {
    expect(await survey('ck-9')).toMatchObject({ found: false, ok: false, problems: [] });
  });
});

describe('repairStore', PATIENT, () => {
  beforeAll(() => open(false), PATIENT.timeout);
  afterAll(() => rm(root, { recursive: true, force: true }));

  it('leaves a whole store alone', async () => {
    const before = await readFile(join(storeDir, 'checkpoints/ck-1/manifest.json'), 'utf8');

    const repaired = await repairStore({
      checkpointId: 'ck-1',
      dir: dirs.get('ck-1') ?? '',
      backend,
      op: testOp(),
      ledgerPath: join(root, 'ck-1.ledger'),
    });

    expect(repaired).toEqual({ markedPacks: [], restoredPacks: [], rewrittenIndexes: [], newChunks: 0, sentBytes: 0 });
    expect(await readFile(join(storeDir, 'checkpoints/ck-1/manifest.json'), 'utf8')).toBe(before);
  });

  it('puts a pack again from a whole copy of it, and needs nothing of the node then', async () => {
    const [, , packs = []] = await objectsOf('ck-1');
    const key = packs[0] ?? '';
    const before = await readFile(join(storeDir, key));
    await cp(join(storeDir, 'packs'), join(root, 'tier/packs'), { recursive: true });
    await openLocalBackend(join(root, 'tier'));
    await rm(join(storeDir, key));
    await rm(join(storeDir, `index/${key.slice(6)}`));
    const request = { checkpointId: 'ck-1', backend, op: testOp(), ledgerPath: join(root, 'ck-1.ledger') };

    await expect(repairStore(request)).rejects.toMatchObject({ type: 'CheckpointCorrupt' });
    const repaired = await repairStore({ ...request, copies: await openLocalBackend(join(root, 'tier')) });

    expect(repaired).toMatchObject({ restoredPacks: [key.slice(6)], markedPacks: [], newChunks: 0, sentBytes: 0 });
    expect((await readFile(join(storeDir, key))).equals(before)).toBe(true);
    expect(await unusablePacks(backend, never)).not.toContain(key.slice(6));
    expect([await survey('ck-1'), await survey('ck-2')]).toMatchObject([{ ok: true }, { ok: true }]);
  });

  it('brings to a store what it does not have at all', async () => {
    const dir = join(root, 'ck-4');
    await makeCheckpoint(dir, 'ck-4', { 'fs/a': noise(200_000, 'four') });

    await repairStore({ checkpointId: 'ck-4', dir, backend, op: testOp(), ledgerPath: join(root, 'ck-4.ledger') });

    expect(await survey('ck-4')).toMatchObject({ ok: true });
  });

  it('is not misled by tiers, which hide what is damaged behind them, and repairs from them', async () => {
    const { log } = testOp();
    const tiers = await openTiers({ nvme: { dir: join(root, 'nvme'), budgetBytes: 2 ** 30 } }, log);
    const tiered = new TieredBackend({ store: backend, tiers, peers: [], log });
    // Chunks of its own: those that others have sent are in no tier.
    await publish('ck-3', { 'fs/a': noise(500_000, 'tiered') }, tiered);
    await tiered.settled();
    const { manifest } = await getManifest(backend, 'ck-3');
    for (const [pack] of manifest.packs) {
      await writeFile(join(storeDir, `packs/${pack}`), Buffer.alloc(100));
    }

    const look = { checkpointId: 'ck-3', mode: 'full', op: testOp() } as const;
    const { report } = await surveyStore({ ...look, backend: tiered.behind() });
    const parts = { backend: tiered, behind: tiered.behind(), copies: residentBackend(tiers) };
    const repaired = await repairStore({ ...look, ...parts, ledgerPath: join(root, 'ck-3.ledger') });

    expect(report).toMatchObject({ ok: false });
    expect(repaired.restoredPacks).toEqual(manifest.packs.map(([pack]) => pack).sort());
    expect((await surveyStore({ ...look, backend })).report).toMatchObject({ ok: true });
    await tiered.settled();
  });

  it('takes from a damaged copy what is whole in it, and names what is lost', async () => {
    const spoiled = join(root, 'spoiled');
    await cp(dirs.get('ck-1') ?? '', spoiled, { recursive: true });
    await writeFile(join(spoiled, 'criu/core-1.img'), noise(700, 'spoiled'));
    const [, , packs = []] = await objectsOf('ck-1');
    const request = {
      checkpointId: 'ck-1',
      dir: spoiled,
      backend,
      op: testOp(),
      ledgerPath: join(root, 'ck-1.ledger'),
    };
    const spoilt = await packWith('ck-1', 'criu/core-1.img');
    await rm(join(storeDir, packs.find((key) => key !== spoilt) ?? ''));
    await repairStore(request);
    expect(await survey('ck-1')).toMatchObject({ ok: true });

    for (const key of packs) {
      await rm(join(storeDir, key), { force: true });
    }
    for (const [pack] of (await getManifest(backend, 'ck-1')).manifest.packs) {
      await rm(join(storeDir, `packs/${pack}`), { force: true });
    }
    await expect(repairStore(request)).rejects.toMatchObject({
      type: 'CheckpointCorrupt',
      details: { file: 'criu/core-1.img', chunk: 0 },
    });
    await repair('ck-1');
    await repair('ck-2');
    expect([await survey('ck-1'), await survey('ck-2')]).toMatchObject([{ ok: true }, { ok: true }]);
  });
});

async function packWith(checkpointId: string, file: string): Promise<string | undefined> {
  const dir = dirs.get(checkpointId) ?? '';
  const { manifest } = await getManifest(backend, checkpointId);
  const copy = await openDirectoryCopy(dir, testOp());
  const digests = Buffer.from(
    copy.manifest.files.find(({ path }) => path === file)?.segments[0]?.digests ?? '',
    'base64',
  );
  for (const [pack] of manifest.packs) {
    const index = await readPackIndex(backend, pack, never);
    if (index?.entries.some(({ digest }) => digests.subarray(0, 32).equals(digest)) === true) {
      return `packs/${pack}`;
    }
  }
  return undefined;
}

async function forgetUnusedPacks(): Promise<void> {
  const used = new Set<string>();
  for (const checkpointId of dirs.keys()) {
    for (const [pack] of (await getManifest(backend, checkpointId)).manifest.packs) {
      used.add(pack);
    }
  }
  for (const kind of ['packs', 'index', 'damaged']) {
    for (const name of await readdir(join(storeDir, kind)).catch((): string[] => [])) {
      if (!used.has(name)) {
        await rm(join(storeDir, kind, name));
      }
    }
  }
}

describe('an exported archive', () => {
  beforeAll(() => open(false), PATIENT.timeout);
  afterAll(() => rm(root, { recursive: true, force: true }));

  it(`that is damaged at random is refused or whole, and nothing else is written (seed ${SEED})`, async () => {
    const random = randomOf(SEED + 1);
    const op = testOp();
    const parts: Buffer[] = [];
    for await (const piece of exportCheckpoint(await openDirectoryCopy(dirs.get('ck-1') ?? '', op), op)) {
      parts.push(Buffer.from(piece));
    }
    const archive = Buffer.concat(parts);
    const home = join(root, 'imports');
    const around = await readdir(root);
    for (let number = 0; number < times(10_000); number += 1) {
      const bytes = mutated(random, archive);
      const stream = (async function* (): AsyncGenerator<Uint8Array> {
        yield await Promise.resolve(bytes);
      })();
      const outcome: unknown = await importCheckpoint({ stream, checkpointsDir: home, op: testOp() }).catch(
        (error: unknown) => error,
      );

      if (outcome instanceof Error) {
        expect(isKybernateError(outcome, 'CheckpointCorrupt'), `case ${number}: ${String(outcome)}`).toBe(true);
        expect(await readdir(home).catch((): string[] => []), `case ${number}`).toEqual([]);
      } else {
        const report = await surveyDirectory({ dir: join(home, 'checkpoint-ck-1'), mode: 'full', op: testOp() });
        expect(report, `case ${number}`).toMatchObject({ ok: true });
        await rm(home, { recursive: true });
      }
    }
    expect((await readdir(root)).filter((name) => name !== 'imports')).toEqual(around);
  }, 3_600_000);
});

/** One to three changes: bits, bytes of headers, cuts, copies of blocks to other places. */
function mutated(random: Random, archive: Buffer): Buffer {
  let bytes: Buffer = Buffer.from(archive);
  for (let change = 0; change <= random(3); change += 1) {
    // Half of all changes hit the first part, where the headers and the texts are.
    const at = random(2) === 0 ? random(Math.min(bytes.length, 24_576)) : random(bytes.length);
    const block = at - (at % 512);
    switch (random(6)) {
      case 0:
        bytes[at] = (bytes[at] ?? 0) ^ (1 << random(8));
        break;
      case 1:
        bytes[at] = random(256);
        break;
      case 2:
        bytes = bytes.subarray(0, at);
        break;
      case 3:
        bytes = Buffer.concat([bytes.subarray(0, block), bytes.subarray(block + 512 * (1 + random(4)))]);
        break;
      case 4:
        bytes = Buffer.concat([bytes.subarray(0, block), bytes.subarray(block, block + 512), bytes.subarray(block)]);
        break;
      default:
        bytes.fill(random(2) === 0 ? 0 : 0xff, at, Math.min(bytes.length, at + random(600)));
    }
    if (bytes.length === 0) {
      break;
    }
  }
  return bytes;
}
