/*
 * Which bytes a container may be restored from: `restore-from` is power over the node. An id names a checkpoint of this
 * node or of its store; a path counts only below a configured root, where root alone can write.
 */
import { existsSync, lstatSync, readdirSync, readFileSync, realpathSync, type Stats } from 'node:fs';
import { join, relative } from 'node:path';
import { CRIU_DIR, METADATA_FILE, checkpointDirName } from '../core/checkpoint/file-names.ts';
import { METADATA_VERSION, metadata as metadataSchema, type Metadata } from '../core/checkpoint/metadata.ts';
import type { PrepareRestoreRequest } from '../core/contract/restore.ts';
import { KybernateError, messageOf } from '../core/errors.ts';
import { CHECKPOINT_ID_PATTERN, parseCheckpointId } from '../core/ids.ts';
import type { NodeSettings } from './node-deps.ts';

export interface RestoreSource {
  /** absent for a path */
  readonly checkpointId?: string;
  readonly checkpointDir: string;
  readonly imageDir: string;
  readonly metadata?: Metadata;
}

/** How bytes come to the node and are checked there; the caller joins it to the store. */
export interface SourceAccess {
  /**
   * Brings a checkpoint to the node, every chunk checked.
   * @returns its directory
   * @throws CheckpointNotFound and the errors of the store
   */
  readonly fetchCheckpoint: (checkpointId: string) => Promise<string>;
  /** Checks every file of a directory on the node against its manifest; absent: what the disk holds is trusted. */
  readonly verifyCheckpoint?: (checkpointDir: string) => Promise<void>;
  /** only what a trusted key has signed is restored, so no bare images */
  readonly signedOnly?: boolean;
}

type Settings = Pick<NodeSettings, 'stateDir' | 'restoreRoots' | 'restoreFromEnvironment'>;
type Wish = Pick<PrepareRestoreRequest, 'restoreFrom' | 'origin' | 'unverified' | 'pod'>;

/**
 * What a container that somebody else made is to be restored from.
 * @throws RestoreRefused, SignatureInvalid, CheckpointNotFound, CheckpointCorrupt, InvalidInput
 */
export async function resolveSource(settings: Settings, access: SourceAccess, wish: Wish): Promise<RestoreSource> {
  const isPath = wish.restoreFrom.startsWith('/');
  if (wish.origin === 'environment') {
    refuseUnless(settings.restoreFromEnvironment, 'the variable RESTORE_FROM is switched off on this node');
    refuseUnless(!isPath, 'the variable RESTORE_FROM takes checkpoint ids only, no paths');
  }
  const source = isPath ? await sourceAtPath(settings, access, wish) : await sourceById(settings, access, wish);
  checkPod(source, wish);
  return source;
}

/** In Kubernetes a checkpoint belongs to its namespace: whoever may write pods elsewhere must not read it. */
function checkPod(source: RestoreSource, wish: Wish): void {
  if (wish.pod === undefined || source.checkpointId === undefined) {
    return;
  }
  const owner = source.metadata?.container.pod?.namespace;
  refuseUnless(
    owner === wish.pod.namespace,
    `checkpoint ${source.checkpointId} belongs to ${owner === undefined ? 'no pod' : `namespace ${owner}`}, ` +
      `the pod ${wish.pod.name} to namespace ${wish.pod.namespace}`,
  );
}

async function sourceById(settings: Settings, access: SourceAccess, wish: Wish): Promise<RestoreSource> {
  const text = wish.restoreFrom;
  refuseUnless(CHECKPOINT_ID_PATTERN.test(text), `${JSON.stringify(text)} is neither a checkpoint id nor a path`);
  const checkpointId = parseCheckpointId(text);
  const local = join(settings.stateDir, 'checkpoints', checkpointDirName(checkpointId));
  const isLocal = existsSync(join(local, METADATA_FILE));
  const checkpointDir = isLocal ? local : await access.fetchCheckpoint(checkpointId);
  if (isLocal) {
    await access.verifyCheckpoint?.(checkpointDir);
  }
  const metadata = readMetadata(checkpointDir);
  refuseUnless(
    metadata.origin === undefined || wish.unverified,
    `checkpoint ${checkpointId} was imported from an archive of ${metadata.origin?.format ?? ''}, which nobody has signed; ` +
      'set kybernate.io/unverified to allow it',
  );
  return { checkpointId, checkpointDir, imageDir: join(checkpointDir, CRIU_DIR), metadata };
}

async function sourceAtPath(settings: Settings, access: SourceAccess, wish: Wish): Promise<RestoreSource> {
  const dir = allowedPath(settings.restoreRoots, wish.restoreFrom);
  if (existsSync(join(dir, METADATA_FILE))) {
    if (access.verifyCheckpoint === undefined) {
      refuseUnless(wish.unverified, `${dir} cannot be checked here; set kybernate.io/unverified to allow it`);
    }
    await access.verifyCheckpoint?.(dir);
    return { checkpointDir: dir, imageDir: join(dir, CRIU_DIR), metadata: readMetadata(dir) };
  }
  refuseUnless(
    wish.unverified,
    `${dir} is a bare image directory, of which nothing can be checked; set kybernate.io/unverified to allow it`,
  );
  if (access.signedOnly === true) {
    throw new KybernateError(
      'SignatureInvalid',
      `${dir} is a bare image directory, which nobody has signed; this node restores signed checkpoints only`,
    );
  }
  return { checkpointDir: dir, imageDir: bareImageDir(dir) };
}

/**
 * Directory of CRIU's images at or directly below a path.
 * @throws CheckpointNotFound there are none
 */
export function bareImageDir(dir: string): string {
  const found = [dir, join(dir, CRIU_DIR)].find((candidate) => existsSync(join(candidate, 'inventory.img')));
  if (found === undefined) {
    throw new KybernateError('CheckpointNotFound', `${dir} holds no CRIU images (inventory.img)`);
  }
  return found;
}

/**
 * The real path, when it lies below a root and nobody but root can change any part of it on the way or in it.
 * @param trustedUid who may own it
 * @throws RestoreRefused
 */
export function allowedPath(roots: readonly string[], path: string, trustedUid = 0): string {
  let real: string;
  try {
    real = realpathSync(path);
  } catch (error) {
    throw new KybernateError('RestoreRefused', `restore from ${path} is refused: ${messageOf(error)}`);
  }
  const root = roots
    .filter((candidate) => existsSync(candidate))
    .map((candidate) => realpathSync(candidate))
    .find((candidate) => isBelow(candidate, real));
  if (root === undefined) {
    throw new KybernateError(
      'RestoreRefused',
      `restore from ${path} is refused: it is ${real}, below none of the restore roots (${roots.join(', ') || 'none set'})`,
      { details: { real, roots } },
    );
  }
  let current = root;
  checkOwned(current, lstatSync(current), trustedUid);
  for (const name of relative(root, real).split('/')) {
    current = join(current, name);
    checkOwned(current, lstatSync(current), trustedUid);
  }
  checkTree(real, trustedUid);
  return real;
}

function isBelow(root: string, path: string): boolean {
  const rest = relative(root, path);
  return rest !== '' && rest !== '..' && !rest.startsWith('../');
}

/** Images are read by CRIU as root long after this look: nobody else may be able to swap one. */
function checkTree(dir: string, trustedUid: number): void {
  for (const name of readdirSync(dir)) {
    const path = join(dir, name);
    const stats = lstatSync(path);
    refuseUnless(!stats.isSymbolicLink(), `${path} is a symbolic link`);
    checkOwned(path, stats, trustedUid);
    if (stats.isDirectory()) {
      checkTree(path, trustedUid);
    }
  }
}

function checkOwned(path: string, stats: Stats, trustedUid: number): void {
  refuseUnless(stats.uid === trustedUid && (stats.mode & 0o022) === 0, `${path} can be changed by others than root`);
}

/**
 * @throws CheckpointNotFound there is none, CheckpointCorrupt it is not what this version reads
 */
export function readMetadata(checkpointDir: string): Metadata {
  const file = join(checkpointDir, METADATA_FILE);
  if (!existsSync(file)) {
    throw new KybernateError('CheckpointNotFound', `${checkpointDir} holds no committed checkpoint (${METADATA_FILE})`);
  }
  const parsed = metadataSchema.safeParse(jsonOf(file));
  if (!parsed.success) {
    const issues = parsed.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`);
    throw new KybernateError(
      'CheckpointCorrupt',
      `${file} is no metadata of version ${METADATA_VERSION}: ${issues.join('; ')}`,
      { details: { issues } },
    );
  }
  return parsed.data;
}

function jsonOf(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new KybernateError('CheckpointCorrupt', `${file} is not JSON: ${messageOf(error)}`, { cause: error });
  }
}

function refuseUnless(allowed: boolean, why: string): asserts allowed {
  if (!allowed) {
    throw new KybernateError('RestoreRefused', `the restore is refused: ${why}`);
  }
}
