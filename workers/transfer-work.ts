/* What the sidecar does for a transfer of its sockets. Every part finds by itself what an earlier attempt has done. */
import { mkdir, readdir, readFile, rename, rm, rmdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { ledgerPathOf } from '../activities/transfer/index.ts';
import type { PrefetchTier } from '../core/contract/prefetch.ts';
import type { TransferTask } from '../core/contract/transfer.ts';
import { assertNever, KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import type { Backend } from '../store/backend/backend.ts';
import { openLocalBackend } from '../store/backend/local.ts';
import { getManifest } from '../store/catalog.ts';
import { keyPrefixesOf } from '../store/crypto/manifests.ts';
import { fetchCheckpoint } from '../store/fetch.ts';
import { errnoOf, syncDir } from '../store/files.ts';
import { indexKey, manifestKey, packKey, PREFIX } from '../store/keys.ts';
import { acquireLease, newReadLeaseId } from '../store/lease.ts';
import { forEachLimit } from '../store/limit.ts';
import type { LocalCatalog } from '../store/local-catalog.ts';
import { committedRoot } from '../store/metadata.ts';
import { publishManifest } from '../store/publish.ts';
import { uploadCheckpoint } from '../store/upload.ts';
import { stageArtifacts } from './artifacts.ts';
import { pathBelow, type Root } from './transfer-paths.ts';
import type { TransferResult, TransferWork } from './transfers.ts';

const PARALLEL_OBJECTS = 4;

export interface TransferWorkDeps {
  readonly node: string;
  readonly catalog: LocalCatalog;
  /** with the tiers of the node, where it has some */
  readonly backend: () => Promise<Backend>;
  /** the store itself */
  readonly store: () => Promise<Backend>;
  /** below which callers may name directories */
  readonly roots: readonly Root[];
  readonly ledgerDir: string;
  /** for the records of artifacts while they are sent */
  readonly stagingDir: string;
  /** Runs the workflow `prefetch`, or goes on with the one of this transfer. */
  readonly prefetch: (
    transferId: string,
    wish: { readonly checkpointId: string; readonly nodes: readonly string[]; readonly tier: PrefetchTier },
    op: Op,
  ) => Promise<void>;
}

export function transferWork(deps: TransferWorkDeps): TransferWork {
  return (id, task, op) => {
    switch (task.kind) {
      case 'upload':
        return upload(deps, id, task.call, op);
      case 'download':
        return download(deps, id, task.call, op);
      case 'prefetch':
        return prefetch(deps, id, task.call, op);
      default:
        return assertNever(task);
    }
  };
}

type CallOf<Kind extends TransferTask['kind']> = Extract<TransferTask, { kind: Kind }>['call'];

async function upload(deps: TransferWorkDeps, id: string, call: CallOf<'upload'>, op: Op): Promise<TransferResult> {
  const { checkpointId, paths, tier, compress: codec } = call;
  const staged = paths.length === 0 ? undefined : join(deps.stagingDir, id);
  try {
    const source =
      staged === undefined
        ? { dir: (await deps.catalog.get(checkpointId)).path, manifest: await deps.catalog.manifest(checkpointId) }
        : await stageArtifacts(
            { dir: staged, checkpointId, node: deps.node },
            await Promise.all(paths.map((path) => pathBelow(deps.roots, path))),
            op,
          );
    const ledgerPath = ledgerPathOf(deps.ledgerDir, checkpointId);
    const common = { checkpointId, dir: source.dir, backend: await deps.backend(), op, ledgerPath };
    await uploadCheckpoint({ ...common, manifest: source.manifest, codec });
    const { remote } = await publishManifest(common);
    if (tier !== 's3') {
      await deps.prefetch(id, { checkpointId, nodes: [deps.node], tier }, op);
    }
    return { hash: source.manifest.merkleRoot, location: remote };
  } finally {
    if (staged !== undefined) {
      await rm(staged, { recursive: true, force: true });
    }
  }
}

async function download(deps: TransferWorkDeps, id: string, call: CallOf<'download'>, op: Op): Promise<TransferResult> {
  const { checkpointId, tier, destDir, decompress } = call;
  const dest = await pathBelow(deps.roots, destDir, 1);
  if (tier === 'nvme' || tier === 'ram') {
    await deps.prefetch(id, { checkpointId, nodes: [deps.node], tier }, op);
  }
  const backend = await (tier === 's3' ? deps.store() : deps.backend());
  const { merkleRoot } = (await getManifest(backend, checkpointId, op.signal)).manifest;
  const result = { hash: merkleRoot, location: destDir };
  const isThere =
    decompress === 'yes'
      ? (await committedRoot(dest)) === merkleRoot
      : await holdsObjects(dest, checkpointId, backend, op.signal);
  if (isThere) {
    return result;
  }
  await checkEmpty(dest, destDir);
  // Beside its place and named after the transfer: what an earlier attempt left is known to be ours.
  const staging = join(dirname(dest), `.${basename(dest)}.${id}`);
  try {
    if (decompress === 'yes') {
      await fetchCheckpoint({ checkpointId, backend, destDir: staging, op });
    } else {
      await copyObjects(checkpointId, backend, staging, op);
    }
    await rename(staging, dest);
    await syncDir(dirname(dest));
  } catch (error) {
    await rm(staging, { recursive: true, force: true });
    throw error;
  }
  return result;
}

/** Was it copied before? Its manifest, which is copied last, is the one of the store. */
async function holdsObjects(dest: string, checkpointId: string, store: Backend, signal: AbortSignal): Promise<boolean> {
  const key = manifestKey(checkpointId);
  const there = await readFile(join(dest, key)).catch((error: unknown) => {
    if (errnoOf(error) !== 'ENOENT') {
      throw error;
    }
    return undefined;
  });
  const stored = await store.get(key, { signal });
  return there !== undefined && stored !== undefined && there.equals(stored);
}

/** An empty directory gives way. @throws InvalidInput */
async function checkEmpty(dest: string, named: string): Promise<void> {
  try {
    if ((await readdir(dest)).length > 0) {
      throw new KybernateError('InvalidInput', `${named} is not empty; nothing was written there`);
    }
    await rmdir(dest);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') {
      throw error;
    }
  }
}

/** Everything of a checkpoint as it is stored: the result is a store of its own, with one checkpoint. */
async function copyObjects(checkpointId: string, from: Backend, dir: string, op: Op): Promise<void> {
  const { signal } = op;
  const lease = await acquireLease(from, { id: newReadLeaseId(checkpointId), purpose: 'read', checkpointId }, op);
  try {
    const { manifest } = await getManifest(from, checkpointId, signal);
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const to = await openLocalBackend(dir);
    const bytesTotal = manifest.packs.reduce((sum, [, bytes]) => sum + bytes, 0);
    let bytesDone = 0;
    const copy = async (key: string): Promise<number> => {
      const bytes = await from.get(key, { signal });
      if (bytes === undefined) {
        throw new KybernateError('CheckpointCorrupt', `${from.url} lacks ${key} of checkpoint ${checkpointId}`);
      }
      await to.put(key, bytes, { signal });
      return bytes.length;
    };
    await forEachLimit(manifest.packs, PARALLEL_OBJECTS, signal, async ([pack]) => {
      bytesDone += await copy(packKey(pack));
      await copy(indexKey(pack));
      op.progress({ phase: 'fetching', bytesDone, bytesTotal });
    });
    for (const prefix of [...keyPrefixesOf(manifest), `${PREFIX.checkpoints}${checkpointId}/`]) {
      for await (const { key } of from.list(prefix, { signal })) {
        if (key !== manifestKey(checkpointId)) {
          await copy(key);
        }
      }
    }
    await copy(manifestKey(checkpointId));
  } finally {
    await lease.release();
  }
}

async function prefetch(deps: TransferWorkDeps, id: string, call: CallOf<'prefetch'>, op: Op): Promise<TransferResult> {
  const { checkpointId, targetTier: tier, targetNode = deps.node } = call;
  const { merkleRoot } = (await getManifest(await deps.store(), checkpointId, op.signal)).manifest;
  await deps.prefetch(id, { checkpointId, nodes: [targetNode], tier }, op);
  return { hash: merkleRoot, location: `${tier} of ${targetNode}` };
}
