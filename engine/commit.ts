/*
 * From a captured directory to a committed checkpoint: the commit, outside the freeze, syncs every file, and writes
 * metadata.json last. Until then the directory is not a checkpoint, and whoever finds it may remove it.
 */
import { open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { METADATA_FILE, OWN_FILES } from '../core/checkpoint/file-names.ts';
import { metadata as metadataSchema, type Metadata } from '../core/checkpoint/metadata.ts';
import { KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import { draftPath, type MetadataDraft } from './draft.ts';
import { openNoFollow, shareHandle } from './sharing.ts';

/** The committed metadata, or undefined. */
export async function readMetadata(checkpointDir: string): Promise<Metadata | undefined> {
  let text: string;
  try {
    text = await readFile(join(checkpointDir, METADATA_FILE), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return undefined;
    }
    throw error;
  }
  const parsed = metadataSchema.safeParse(JSON.parse(text));
  if (!parsed.success) {
    throw new KybernateError('CheckpointCorrupt', `${join(checkpointDir, METADATA_FILE)} is not readable metadata`, {
      cause: parsed.error,
    });
  }
  return parsed.data;
}

export interface CommitFacts {
  readonly labels: Readonly<Record<string, string>>;
  readonly merkleRoot: string;
  readonly totalBytes: number;
  readonly uploadPending: boolean;
  /** signs what is about to be committed, by the text of its metadata */
  readonly sign?: (metadataText: string) => Promise<void>;
  /** group that may read the files from now on; absent: root alone */
  readonly groupId?: number | undefined;
}

/**
 * Syncs all files and makes the directory a checkpoint.
 * @throws DiskFull
 * Crash before the last rename: not a checkpoint; the call may be made again.
 */
export async function commitCheckpoint(
  checkpointDir: string,
  draft: MetadataDraft,
  facts: CommitFacts,
  op: Op,
): Promise<Metadata> {
  const { bootId: _boot, bytes, ...rest } = draft;
  const metadata: Metadata = {
    ...rest,
    createdAt: new Date().toISOString(),
    labels: { ...facts.labels },
    sizes: { totalBytes: facts.totalBytes, imageBytes: bytes.image, rootfsBytes: bytes.rootfs },
    merkleRoot: facts.merkleRoot,
  };
  try {
    if (facts.uploadPending) {
      await writeFile(join(checkpointDir, OWN_FILES.uploadPending), '', { mode: 0o600 });
    }
    const text = `${JSON.stringify(metadata, null, 1)}\n`;
    await facts.sign?.(text);
    await syncTree(checkpointDir, facts.groupId, op);
    await writeLast(checkpointDir, METADATA_FILE, text, facts.groupId);
    await rm(draftPath(checkpointDir), { force: true });
    await syncPath(dirname(checkpointDir));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOSPC') {
      throw new KybernateError('DiskFull', `no space to commit ${checkpointDir}; it is not a checkpoint`, {
        cause: error,
      });
    }
    throw error;
  }
  return metadata;
}

/** Temporary file, fsync, rename, fsync of the directory. A crash leaves a temporary form, which is nobody's content. */
async function writeLast(dir: string, name: string, text: string, groupId: number | undefined): Promise<void> {
  const temporary = join(dir, `${name}.tmp`);
  const file = await open(temporary, 'w', 0o600);
  try {
    await file.writeFile(text);
    if (groupId !== undefined) {
      await shareHandle(file, 'file', groupId);
    }
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, join(dir, name));
  await syncPath(dir);
}

/** Files before their directory: what the group cannot enter yet need not be whole. */
async function syncTree(dir: string, groupId: number | undefined, op: Op): Promise<void> {
  for (const entry of await readdir(dir, { withFileTypes: true })) {
    op.signal.throwIfAborted();
    const path = join(dir, entry.name);
    await (entry.isDirectory() ? syncTree(path, groupId, op) : syncPath(path, 'file', groupId));
  }
  await syncPath(dir, 'dir', groupId);
}

async function syncPath(path: string, kind: 'file' | 'dir' = 'dir', groupId?: number): Promise<void> {
  const file = await openNoFollow(path);
  try {
    if (groupId !== undefined) {
      await shareHandle(file, kind, groupId);
    }
    await file.sync();
  } finally {
    await file.close();
  }
}

/**
 * Removes what a capture left, unless it is committed. Idempotent.
 * The directory is moved aside first: a commit that is under way (an attempt that Temporal gave up) then fails, instead
 * of writing metadata.json beside files that are being removed.
 * Crash: what was moved aside is removed, or brought back, by the next call.
 */
export async function removeUncommitted(checkpointDir: string): Promise<boolean> {
  const aside = join(dirname(checkpointDir), `.discard-${basename(checkpointDir)}`);
  if (await isCommitted(checkpointDir)) {
    if (!(await isCommitted(aside))) {
      await rm(aside, { recursive: true, force: true });
    }
    return false;
  }
  if (!(await isCommitted(aside))) {
    await rm(aside, { recursive: true, force: true });
    await rename(checkpointDir, aside).catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
        throw error;
      }
    });
  }
  if (await isCommitted(aside)) {
    // The commit was faster than the move, hence whole.
    await rename(aside, checkpointDir);
    return false;
  }
  await rm(aside, { recursive: true, force: true });
  await rm(draftPath(checkpointDir), { force: true });
  return true;
}

/** @throws whatever keeps us from knowing: a disk that cannot be read is not an uncommitted checkpoint */
async function isCommitted(dir: string): Promise<boolean> {
  try {
    await stat(join(dir, METADATA_FILE));
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return false;
    }
    throw error;
  }
}

/** Did an earlier attempt commit? Removes the draft that its crash may have left: after a reboot it would be refused. */
export async function wasCommitted(checkpointDir: string): Promise<boolean> {
  if ((await readMetadata(checkpointDir)) === undefined) {
    return false;
  }
  await rm(draftPath(checkpointDir), { force: true });
  return true;
}
