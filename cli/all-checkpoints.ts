/* The checkpoints that a user can see: those on this node and those in the store, as one list. */
import { join } from 'node:path';
import type { Metadata } from '../core/checkpoint/metadata.ts';
import type { ListCopiesResult, NodeCopy } from '../core/contract/list-copies.ts';
import { isKybernateError, messageOf, type KybernateError } from '../core/errors.ts';
import type { Backend } from '../store/backend/backend.ts';
import type { KeyRing } from '../store/crypto/key-ring.ts';
import type { RemoteCheckpoint } from '../store/catalog.ts';
import type { LocalCatalog, LocalCheckpoint } from '../store/local-catalog.ts';
import type { CheckpointSummary, StoredCheckpoint } from '../store/registry.ts';
import { createCliOp } from './cli-op.ts';
import type { CliConfig } from './config.ts';

/** One, with all that is known of it. */
export interface SeenCheckpoint {
  readonly checkpointId: string;
  readonly metadata: Metadata;
  readonly local?: LocalCheckpoint;
  readonly remote?: RemoteCheckpoint & { readonly verifiedAt?: string };
  /** the store could not be read: whether it has this one is not known */
  readonly storeUnread?: true;
}

/** One of many, with what a list shows. */
export interface ListedCheckpoint {
  readonly checkpointId: string;
  readonly metadata: CheckpointSummary;
  readonly local?: LocalCheckpoint;
  readonly remote?: StoredCheckpoint;
  /** other nodes with a copy; absent: they were not asked */
  readonly elsewhere?: ReadonlyArray<NodeCopy & { readonly node: string }>;
  /** the store could not be read: whether it has this one is not known */
  readonly storeUnread?: true;
}

/**
 * `pending`: on a node, and on its way to the store. `verified`: in the store, and read back from there. `unknown`: on a
 * node, and the store could not be read.
 */
export type SeenDurability = 'local' | 'pending' | 'remote' | 'verified' | 'unknown';

export function durabilityOf(checkpoint: {
  readonly local?: Pick<LocalCheckpoint, 'uploadPending'>;
  readonly remote?: { readonly remote: string; readonly verifiedAt?: string };
  readonly elsewhere?: ReadonlyArray<{ readonly uploadPending: boolean }>;
  readonly storeUnread?: true;
}): SeenDurability {
  if (checkpoint.remote !== undefined) {
    return checkpoint.remote.verifiedAt === undefined ? 'remote' : 'verified';
  }
  const copies = [...(checkpoint.local === undefined ? [] : [checkpoint.local]), ...(checkpoint.elsewhere ?? [])];
  if (copies.some(({ uploadPending }) => uploadPending)) {
    return 'pending';
  }
  return checkpoint.storeUnread === true ? 'unknown' : 'local';
}

export interface SeenList {
  /** newest first */
  readonly checkpoints: readonly ListedCheckpoint[];
  /** what could not be read, in words */
  readonly problems: readonly string[];
  /** the store could not be listed at all: the list is not complete */
  readonly storeError?: KybernateError;
}

/** @param storeUrl undefined when no store is configured: only this node is looked at */
export async function listAll(config: CliConfig, storeUrl: string | undefined): Promise<SeenList> {
  const problems: string[] = [];
  const local = await listLocal(config, problems);
  let remote: readonly StoredCheckpoint[] = [];
  let storeError: KybernateError | undefined;
  if (storeUrl === undefined) {
    problems.push('no store is configured (KYBERNATE_STORE or --store): only this node is shown');
  } else {
    try {
      remote = await listStore(config, storeUrl, problems);
    } catch (error) {
      if (!isKybernateError(error, 'StorageUnavailable') && !isKybernateError(error, 'StorageDenied')) {
        throw error;
      }
      storeError = error;
      problems.push(`the store is not shown: ${messageOf(error)}`);
    }
  }
  const checkpoints = merge(local, remote);
  return { checkpoints, problems, ...(storeError === undefined ? {} : { storeError }) };
}

export function checkpointsDir(config: CliConfig): string {
  return join(config.stateDir, 'checkpoints');
}

export async function openLocalCatalog(config: CliConfig): Promise<LocalCatalog> {
  const { localCatalog } = await import('../store/local-catalog.ts');
  return localCatalog(checkpointsDir(config));
}

async function listLocal(config: CliConfig, problems: string[]): Promise<readonly LocalCheckpoint[]> {
  try {
    const { checkpoints, damaged } = await (await openLocalCatalog(config)).list();
    problems.push(...damaged.map(({ checkpointId, reason }) => `${checkpointId} on this node: ${reason}`));
    return checkpoints;
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && (error.code === 'EACCES' || error.code === 'EPERM'))) {
      throw error;
    }
    problems.push(`the checkpoints of this node are not shown: ${error.message}; run it as root`);
    return [];
  }
}

async function listStore(config: CliConfig, url: string, problems: string[]): Promise<readonly StoredCheckpoint[]> {
  const { listStored } = await import('../store/registry.ts');
  return withStore(config, url, async (backend) => {
    const { checkpoints, damaged } = await listStored(
      backend,
      createCliOp((text) => problems.push(text)),
    );
    problems.push(...damaged.map(({ checkpointId, reason }) => `${checkpointId} in the store: ${reason}`));
    return checkpoints;
  });
}

/** The keys of an encrypted store; undefined: none are configured. @throws InvalidInput naming the variable */
export async function openRing({ encryption }: CliConfig): Promise<KeyRing | undefined> {
  if (Object.values(encryption).every((value) => value === undefined)) {
    return undefined;
  }
  const { openKeyRing } = await import('../store/crypto/key-ring.ts');
  const { runExeca } = await import('../native/run/run-execa.ts');
  return openKeyRing(encryption, runExeca);
}

/**
 * Opens the store for one use, with its keys where they are configured.
 * @param access `write` makes a directory that is not there
 * @throws StorageUnavailable among others where there is no store to read
 */
export async function withStore<Result>(
  config: CliConfig,
  url: string,
  use: (backend: Backend) => Promise<Result>,
  access: 'read' | 'write' = 'read',
): Promise<Result> {
  const ring = await openRing(config);
  const { openBackend } = await import('../store/backend/open.ts');
  const backend = await openBackend(url, {
    region: config.s3Region,
    mustExist: access === 'read',
    ...(config.s3Endpoint === undefined ? {} : { endpoint: config.s3Endpoint }),
  });
  try {
    if (ring !== undefined) {
      const { withKeys } = await import('../store/crypto/vault.ts');
      withKeys(backend, ring);
    }
    return await use(backend);
  } finally {
    await backend.close();
  }
}

/** Newest first; a checkpoint that is in both places is one. */
export function merge(local: readonly LocalCheckpoint[], remote: readonly StoredCheckpoint[]): ListedCheckpoint[] {
  const seen = new Map<string, ListedCheckpoint>();
  for (const one of local) {
    seen.set(one.checkpointId, { checkpointId: one.checkpointId, metadata: one.metadata, local: one });
  }
  for (const one of remote) {
    const here = seen.get(one.checkpointId);
    seen.set(one.checkpointId, { metadata: one.summary, ...here, checkpointId: one.checkpointId, remote: one });
  }
  return [...seen.values()].sort(newestFirst);
}

/** Adds what other nodes have to a list. */
export function mergeElsewhere(
  seen: readonly ListedCheckpoint[],
  answers: readonly ListCopiesResult[],
): ListedCheckpoint[] {
  type Copies = Array<NodeCopy & { readonly node: string }>;
  const merged = new Map<string, ListedCheckpoint & { readonly elsewhere: Copies }>(
    seen.map((one) => [one.checkpointId, { ...one, elsewhere: [] }]),
  );
  for (const { node, copies } of answers) {
    for (const copy of copies) {
      const { checkpointId, createdAt, labels, container, takenOn, totalBytes } = copy;
      const metadata = { createdAt, labels: { ...labels }, container, node: { name: takenOn }, sizes: { totalBytes } };
      const known = merged.get(checkpointId) ?? { checkpointId, metadata, elsewhere: [] as Copies };
      known.elsewhere.push({ ...copy, node });
      merged.set(checkpointId, known);
    }
  }
  return [...merged.values()].sort(newestFirst);
}

function newestFirst(left: ListedCheckpoint, right: ListedCheckpoint): number {
  const times = right.metadata.createdAt.localeCompare(left.metadata.createdAt);
  return times === 0 ? left.checkpointId.localeCompare(right.checkpointId) : times;
}
