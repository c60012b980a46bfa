/*
 * Which bytes a container may be restored from: `restore-from` is power over the node. An id names a checkpoint of this
 * node or of its store; a path counts only below a configured root, where root alone can write.
 */
import { existsSync, lstatSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { CRIU_DIR, METADATA_FILE, OWN_FILES, checkpointDirName } from '../core/checkpoint/file-names.ts';
import { METADATA_VERSION, metadata as metadataSchema, type Metadata } from '../core/checkpoint/metadata.ts';
import type { PrepareRestoreRequest } from '../core/contract/restore.ts';
import { KybernateError, messageOf } from '../core/errors.ts';
import { CHECKPOINT_ID_PATTERN, parseCheckpointId } from '../core/ids.ts';
import { ANNOTATIONS } from '../core/oci/annotations.ts';
import { mayRestore } from '../core/oci/restore-grants.ts';
import { type OciSpec, parseSpec } from '../core/oci/spec.ts';
import { checkOwned, confinedPath } from './confined-path.ts';
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
   * @param until by performance.now(): after it RestorePending, and the work goes on; absent: as long as it takes
   * @returns its directory
   * @throws CheckpointNotFound and the errors of the store
   */
  readonly fetchCheckpoint: (checkpointId: string, until?: number) => Promise<string>;
  /** Checks every file of a directory on the node against its manifest; absent: what the disk holds is trusted. */
  readonly verifyCheckpoint?: (checkpointDir: string, until?: number) => Promise<void>;
  /** What a checkpoint of the store says of itself, before it is brought; absent: that is looked at afterwards alone. */
  readonly describe?: (checkpointId: string) => Promise<Description>;
  /** only what a trusted key has signed is restored, so no bare images */
  readonly signedOnly?: boolean;
}

/** Not checked against anything yet. */
export interface Description {
  readonly metadata: Metadata;
  readonly spec: OciSpec;
}

export interface SourceOptions {
  /** as for `fetchCheckpoint` */
  readonly until?: number;
  /** looks at a checkpoint before much of it is read or brought; what it throws ends the search */
  readonly look?: (description: Description) => Promise<void>;
}

type Settings = Pick<NodeSettings, 'stateDir' | 'restoreRoots' | 'restoreFromEnvironment' | 'restoreGrants'>;
type Wish = Pick<PrepareRestoreRequest, 'restoreFrom' | 'origin' | 'unverified' | 'pod'>;

/**
 * What a container that somebody else made is to be restored from.
 * @throws RestoreRefused, RestorePending, SignatureInvalid, CheckpointNotFound, CheckpointCorrupt, InvalidInput
 */
export async function resolveSource(
  settings: Settings,
  access: SourceAccess,
  wish: Wish,
  options: SourceOptions = {},
): Promise<RestoreSource> {
  const isPath = wish.restoreFrom.startsWith('/');
  if (wish.origin === 'environment') {
    if (!settings.restoreFromEnvironment) {
      throw new KybernateError(
        'RestoreRefused',
        'the restore is refused: the variable RESTORE_FROM is switched off on this node',
        { details: { switchedOff: true } },
      );
    }
    refuseUnless(!isPath, 'the variable RESTORE_FROM takes checkpoint ids only, no paths');
  }
  const source = isPath
    ? await sourceAtPath(settings, access, wish, options)
    : await sourceById(settings, access, wish, options);
  checkPod(settings, source.metadata, source.checkpointId, wish);
  return source;
}

/** In Kubernetes a checkpoint belongs to its namespace: whoever may write pods elsewhere must not read it. */
function checkPod(
  settings: Settings,
  metadata: Metadata | undefined,
  checkpointId: string | undefined,
  wish: Wish,
): void {
  const { pod } = wish;
  const owner = metadata?.container.pod;
  // Who may write below a restore root has decided on what lies there; a pod's checkpoint stays its namespace's.
  if (pod === undefined || (checkpointId === undefined && owner === undefined)) {
    return;
  }
  const what = checkpointId ?? wish.restoreFrom;
  refuseUnless(
    mayRestore(settings.restoreGrants ?? [], pod.namespace, owner?.namespace),
    `checkpoint ${what} belongs to ${owner === undefined ? 'no pod' : `namespace ${owner.namespace}`}, ` +
      `the pod ${pod.name} to namespace ${pod.namespace}, and KYBERNATE_RESTORE_GRANTS of the node does not allow it`,
  );
  refuseUnless(
    pod.named || owner === undefined || pod.container === undefined || owner.container === pod.container,
    `checkpoint ${what} is of the container ${owner?.container}, and this one is ${pod.container}: name the container ` +
      `that is meant by the annotation ${ANNOTATIONS.restoreFrom}.${pod.container}, in place of ${ANNOTATIONS.restoreFrom}`,
  );
}

async function sourceById(
  settings: Settings,
  access: SourceAccess,
  wish: Wish,
  { until, look }: SourceOptions,
): Promise<RestoreSource> {
  const text = wish.restoreFrom;
  refuseUnless(CHECKPOINT_ID_PATTERN.test(text), `${JSON.stringify(text)} is neither a checkpoint id nor a path`);
  const checkpointId = parseCheckpointId(text);
  const local = join(settings.stateDir, 'checkpoints', checkpointDirName(checkpointId));
  const isLocal = existsSync(join(local, METADATA_FILE));
  const allowed = async (description: Description): Promise<void> => {
    checkPod(settings, description.metadata, checkpointId, wish);
    checkOrigin(description.metadata, wish);
    await look?.(description);
  };
  if (isLocal && wish.pod !== undefined) {
    await allowed(describeDirectory(local));
  } else if (!isLocal && access.describe !== undefined) {
    await allowed(await access.describe(checkpointId));
  }
  const checkpointDir = isLocal ? local : await access.fetchCheckpoint(checkpointId, until);
  if (isLocal) {
    await access.verifyCheckpoint?.(checkpointDir, until);
  }
  const metadata = readMetadata(checkpointDir);
  checkOrigin(metadata, wish);
  return { checkpointId, checkpointDir, imageDir: join(checkpointDir, CRIU_DIR), metadata };
}

function checkOrigin({ checkpointId, origin }: Metadata, wish: Wish): void {
  refuseUnless(
    origin === undefined || wish.unverified,
    `checkpoint ${checkpointId} was imported from an archive of ${origin?.format ?? ''}, which nobody has signed; ` +
      'set kybernate.io/unverified to allow it',
  );
}

/** @throws CheckpointNotFound, CheckpointCorrupt, InvalidInput */
function describeDirectory(checkpointDir: string): Description {
  const file = join(checkpointDir, OWN_FILES.spec);
  // A tree of processes has none.
  const text = existsSync(file) ? readFileSync(file, 'utf8') : '{}';
  return { metadata: readMetadata(checkpointDir), spec: parseSpec(text, file) };
}

async function sourceAtPath(
  settings: Settings,
  access: SourceAccess,
  wish: Wish,
  { until }: SourceOptions,
): Promise<RestoreSource> {
  const dir = allowedPath(settings.restoreRoots, wish.restoreFrom);
  if (existsSync(join(dir, METADATA_FILE))) {
    if (access.verifyCheckpoint === undefined) {
      refuseUnless(wish.unverified, `${dir} cannot be checked here; set kybernate.io/unverified to allow it`);
    }
    await access.verifyCheckpoint?.(dir, until);
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

const PURPOSE = { what: 'restore from', rootsName: 'the restore roots' } as const;

/**
 * The real path, when it lies below a root and nobody but root can change any part of it on the way or in it.
 * @param trustedUid who may own it
 * @throws RestoreRefused
 */
export function allowedPath(roots: readonly string[], path: string, trustedUid = 0): string {
  const real = confinedPath({ ...PURPOSE, roots, path, trustedUid });
  checkTree(real, trustedUid);
  return real;
}

/** Images are read by CRIU as root long after this look: nobody else may be able to swap one. */
function checkTree(dir: string, trustedUid: number): void {
  for (const name of readdirSync(dir)) {
    const path = join(dir, name);
    const stats = lstatSync(path);
    refuseUnless(!stats.isSymbolicLink(), `${path} is a symbolic link`);
    checkOwned(path, stats, { ...PURPOSE, trustedUid });
    if (stats.isDirectory()) {
      checkTree(path, trustedUid);
    }
  }
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
