/*
 * Lists the checkpoints of a store fast. The manifests are the truth; registry/checkpoints.zst is a copy of what a list
 * needs of them, made by whoever has read many. It is held against one list of the keys: an entry counts only while its
 * manifest has the same size and time as when it was read, every other manifest is read. So a missing, stale or damaged
 * registry costs time and nothing else, and it does not matter who writes it last. Nothing but lists relies on it.
 *
 * Manifests as young as the youngest are left out: a second one in the same second could look the same.
 * Checkpoints that are encrypted are left out, too: what a list shows of them must not lie in the store in the clear.
 */
import { promisify } from 'node:util';
import { zstdCompress, zstdDecompress } from 'node:zlib';
import * as z from 'zod';
import { isKybernateError, messageOf } from '../core/errors.ts';
import { checkpointId } from '../core/contract/common.ts';
import { metadata, type Metadata } from '../core/checkpoint/metadata.ts';
import { packId } from '../core/checkpoint/manifest.ts';
import type { Op } from '../core/op.ts';
import type { Backend, ObjectInfo } from './backend/backend.ts';
import { findManifest, getManifest, UNREADABLE } from './catalog.ts';
import { publicationDigest } from './file-list.ts';
import { checkpointOfManifest, manifestKey, PREFIX, REGISTRY_KEY } from './keys.ts';
import { readJson } from './lease.ts';
import { forEachLimit } from './limit.ts';
import { isOfPublication, verifiedOfKey } from './verified.ts';

const PARALLEL_READS = 32;
/** As many manifests read, or entries without one, make it worth writing the registry anew. */
const REFRESH_FROM = 64;
/** S3 tells times in whole seconds. */
const SAME_TIME_MS = 2000;
const MAX_RAW_BYTES = 512 * 2 ** 20;

const { shape } = metadata;
const { container } = shape;
/** What of metadata.json a list shows. */
const summary = z.object({
  createdAt: shape.createdAt,
  labels: shape.labels,
  container: z.object({
    id: container.shape.id,
    namespace: container.shape.namespace,
    pod: container.shape.pod,
    docker: z.object({ name: z.string() }).optional(),
  }),
  node: z.object({ name: z.string() }),
  sizes: z.object({ totalBytes: z.number() }),
});
export type CheckpointSummary = z.output<typeof summary>;

const entry = z.object({
  checkpointId,
  /** of the manifest when it was read */
  bytes: z.number(),
  modifiedMs: z.number(),
  merkleRoot: z.string(),
  /** `publicationDigest` where it is another one */
  digest: z.string().optional(),
  publishedAt: z.string(),
  /** numbers in the list of packs */
  packs: z.array(z.int().min(0)),
  summary,
});
type Entry = z.output<typeof entry>;

const registry = z.object({
  version: z.literal(1),
  packs: z.array(z.tuple([packId, z.number()])),
  checkpoints: z.array(entry),
});
type Registry = z.output<typeof registry>;

export interface StoredCheckpoint {
  readonly checkpointId: string;
  readonly summary: CheckpointSummary;
  readonly merkleRoot: string;
  /** ISO time */
  readonly publishedAt: string;
  /** of all packs that it names */
  readonly storedBytes: number;
  /** of the packs that no other checkpoint of the store names: what its removal frees */
  readonly uniqueBytes: number;
  /** ISO time at which it was read back last, every byte */
  readonly verifiedAt?: string;
  /** URL of the manifest */
  readonly remote: string;
}

export interface StoreListing {
  /** in the order of their ids */
  readonly checkpoints: readonly StoredCheckpoint[];
  /** manifests that are there and cannot be used */
  readonly damaged: ReadonlyArray<{ readonly checkpointId: string; readonly reason: string }>;
  /** manifests that had to be read */
  readonly read: number;
}

export interface ListOptions {
  /** `auto`: when it saves reading much; `never` looks at no registry either */
  readonly registry: 'auto' | 'always' | 'never';
}

/** @throws StorageUnavailable, StorageDenied; never for one damaged checkpoint, never for the registry */
export async function listStored(
  backend: Backend,
  op: Op,
  options: ListOptions = { registry: 'auto' },
): Promise<StoreListing> {
  const before = options.registry === 'never' ? undefined : await readRegistry(backend, op);
  const byId = new Map(before?.checkpoints.map((one) => [one.checkpointId, one]));
  const { manifests, verified } = await listKeys(backend, op);
  const known = new PackNumbers();
  const found: Entry[] = [];
  const unread: ObjectInfo[] = [];
  for (const [id, object] of manifests) {
    const cached = byId.get(id);
    if (cached !== undefined && cached.bytes === object.bytes && cached.modifiedMs === object.modifiedMs) {
      found.push({ ...cached, packs: cached.packs.map((pack) => known.add(before?.packs[pack])) });
    } else {
      unread.push(object);
    }
  }
  const gone = byId.size - found.length;
  const { read, secret, damaged } = await readManifests(backend, unread, known, op);
  const worth = read.length + gone >= REFRESH_FROM;
  if (options.registry === 'always' || (options.registry === 'auto' && worth)) {
    await writeRegistry(backend, known, [...found, ...read], op);
  }
  const all = [...found, ...read, ...secret].sort(byCheckpointId);
  return {
    checkpoints: all.map((one) => toStored(backend, one, known, verified.get(one.checkpointId))),
    damaged,
    read: unread.length,
  };
}

/** Numbers of packs, in order of first sight, and how many checkpoints name each. */
class PackNumbers {
  readonly packs: Array<readonly [id: string, bytes: number]> = [];
  readonly #numbers = new Map<string, number>();
  readonly #uses: number[] = [];

  add(pack: readonly [id: string, bytes: number] | undefined): number {
    const [id, bytes] = pack ?? ['', 0];
    const number = this.#numbers.get(id) ?? this.packs.push([id, bytes]) - 1;
    this.#numbers.set(id, number);
    this.#uses[number] = (this.#uses[number] ?? 0) + 1;
    return number;
  }

  bytesOf(numbers: readonly number[], named: (uses: number) => boolean): number {
    return numbers
      .filter((number) => named(this.#uses[number] ?? 0))
      .reduce((sum, number) => sum + (this.packs[number]?.[1] ?? 0), 0);
  }
}

type Mark = ReadonlyArray<{ readonly digits: string; readonly modifiedMs: number }>;

function toStored(backend: Backend, one: Entry, known: PackNumbers, marks: Mark = []): StoredCheckpoint {
  const { checkpointId: id, merkleRoot, publishedAt, packs } = one;
  const mark = marks.find(({ digits }) => isOfPublication(digits, one.digest ?? merkleRoot));
  return {
    checkpointId: id,
    summary: one.summary,
    merkleRoot,
    publishedAt,
    storedBytes: known.bytesOf(packs, () => true),
    uniqueBytes: known.bytesOf(packs, (uses) => uses === 1),
    ...(mark === undefined ? {} : { verifiedAt: new Date(mark.modifiedMs).toISOString() }),
    remote: `${backend.url}/${manifestKey(id)}`,
  };
}

export function summaryOf({ createdAt, labels, container: source, node, sizes }: Metadata): CheckpointSummary {
  const { id, namespace, pod, docker } = source;
  return {
    createdAt,
    labels,
    container: {
      id,
      namespace,
      ...(pod === undefined ? {} : { pod }),
      ...(docker === undefined ? {} : { docker: { name: docker.name } }),
    },
    node: { name: node.name },
    sizes: { totalBytes: sizes.totalBytes },
  };
}

async function listKeys(
  backend: Backend,
  op: Op,
): Promise<{ manifests: Map<string, ObjectInfo>; verified: Map<string, Array<Mark[number]>> }> {
  const manifests = new Map<string, ObjectInfo>();
  const verified = new Map<string, Array<Mark[number]>>();
  for await (const object of backend.list(PREFIX.checkpoints, { signal: op.signal })) {
    const id = checkpointOfManifest(object.key);
    const mark = verifiedOfKey(object.key);
    if (id !== undefined) {
      manifests.set(id, object);
    } else if (mark !== undefined) {
      const marks = verified.get(mark.checkpointId) ?? [];
      verified.set(mark.checkpointId, marks);
      marks.push({ digits: mark.digits, modifiedMs: object.modifiedMs });
    }
  }
  return { manifests, verified };
}

interface ReadManifests {
  readonly read: Entry[];
  /** of encrypted checkpoints: nothing for the registry */
  readonly secret: Entry[];
  readonly damaged: Array<{ checkpointId: string; reason: string }>;
}

async function readManifests(
  backend: Backend,
  objects: readonly ObjectInfo[],
  known: PackNumbers,
  op: Op,
): Promise<ReadManifests> {
  const result: ReadManifests = { read: [], secret: [], damaged: [] };
  await forEachLimit(objects, PARALLEL_READS, op.signal, async ({ key, bytes, modifiedMs }) => {
    const id = checkpointOfManifest(key) ?? '';
    try {
      const { manifest, metadata: full } = await getManifest(backend, id, op.signal);
      const { merkleRoot, publishedAt, encryption } = manifest;
      const packs = manifest.packs.map((pack) => known.add(pack));
      const one = { checkpointId: id, bytes, modifiedMs, merkleRoot, publishedAt, packs, summary: summaryOf(full) };
      if (encryption === undefined) {
        result.read.push(one);
      } else {
        result.secret.push({ ...one, digest: publicationDigest(manifest) });
      }
      op.progress({ phase: 'listing', bytesDone: result.read.length + result.secret.length });
    } catch (error) {
      if (UNREADABLE.some((type) => isKybernateError(error, type))) {
        await countPacks(backend, id, known, op);
        result.damaged.push({ checkpointId: id, reason: messageOf(error) });
      } else if (!isKybernateError(error, 'CheckpointNotFound')) {
        throw error;
      }
    }
  });
  result.damaged.sort(byCheckpointId);
  return result;
}

/** Packs of a checkpoint that we may not look into are not unique to another one. */
async function countPacks(backend: Backend, id: string, known: PackNumbers, op: Op): Promise<void> {
  try {
    (await findManifest(backend, id, op.signal))?.packs.forEach((pack) => known.add(pack));
  } catch (error) {
    if (!UNREADABLE.some((type) => isKybernateError(error, type))) {
      throw error;
    }
  }
}

function byCheckpointId(left: { readonly checkpointId: string }, right: { readonly checkpointId: string }): number {
  return left.checkpointId < right.checkpointId ? -1 : 1;
}

/** Whatever is wrong with it, there is none then. */
async function readRegistry(backend: Backend, op: Op): Promise<Registry | undefined> {
  try {
    const packed = await backend.get(REGISTRY_KEY, { signal: op.signal });
    if (packed === undefined) {
      return undefined;
    }
    const raw = await promisify(zstdDecompress)(packed, { maxOutputLength: MAX_RAW_BYTES });
    return registry.safeParse(readJson(raw)).data;
  } catch (error) {
    op.signal.throwIfAborted();
    op.log.debug({ reason: messageOf(error) }, 'the registry cannot be read');
    return undefined;
  }
}

async function writeRegistry(backend: Backend, known: PackNumbers, all: readonly Entry[], op: Op): Promise<void> {
  const newestMs = all.reduce((newest, { modifiedMs }) => Math.max(newest, modifiedMs), 0);
  const checkpoints = all.filter(({ modifiedMs }) => modifiedMs < newestMs - SAME_TIME_MS);
  const content: Registry = { version: 1, packs: known.packs.map(([id, bytes]) => [id, bytes]), checkpoints };
  try {
    const packed = await promisify(zstdCompress)(Buffer.from(JSON.stringify(content)));
    await backend.put(REGISTRY_KEY, packed, { signal: op.signal });
  } catch (error) {
    op.signal.throwIfAborted();
    op.log.debug({ reason: messageOf(error) }, 'the registry was not written');
  }
}
