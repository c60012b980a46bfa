/*
 * The layer of a snapshotter without an upper directory: containerd compares the snapshot with its parent and writes an
 * OCI layer, in which a deleted name is an empty file `.wh.<name>` and an opaque directory holds `.wh..wh..opq`. The
 * layer and the view of the parent belong to a lease, which collects them whatever becomes of us. The layer is never
 * deleted by its digest: an image may have a layer of the same content.
 */
import { open, rm, stat } from 'node:fs/promises';
import { createWriteStream } from 'node:fs';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { FS_FILES } from '../core/checkpoint/file-names.ts';
import { KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import type { Containerd } from '../native/containerd/containerd.ts';
import type { ContainerFacts } from './container-facts.ts';
import { writeDeleted } from './deleted-files.ts';
import type { RootfsCapture, RootfsDeps } from './rootfs-types.ts';
import { readTarMembers, type TarMember } from './tar-members.ts';

const WHITEOUT = '.wh.';
const OPAQUE = '.wh..wh..opq';
const EXPIRY_MS = 24 * 3_600_000;
const COPY_BYTES = 1024 * 1024;

export async function captureByDiffService(
  deps: RootfsDeps,
  facts: ContainerFacts,
  destDir: string,
  op: Op,
): Promise<RootfsCapture> {
  const containerd = deps.containerd();
  const { namespace, id } = facts.ref;
  const { snapshotter, snapshotKey } = facts.record;
  const name = diffName(id);
  const layer = join(destDir, `${FS_FILES.rootfsDiff}.layer`);
  await containerd.removeSnapshot(namespace, snapshotter, name);
  await containerd.createLease(namespace, name, {
    'containerd.io/gc.expire': new Date(Date.now() + EXPIRY_MS).toISOString(),
  });
  try {
    const lower = await containerd.viewSnapshot(namespace, snapshotter, name, facts.snapshotParent ?? '', name);
    const upper = await containerd.snapshotMounts(namespace, snapshotter, snapshotKey);
    const { digest } = await containerd.diff(namespace, lower, upper, name, name);
    await pipeline(containerd.readContent(namespace, digest), createWriteStream(layer, { mode: 0o600 }), {
      signal: op.signal,
    });
    const { bytes, deleted } = await splitLayer(layer, join(destDir, FS_FILES.rootfsDiff), op);
    await writeDeleted(destDir, deleted);
    const warnings = [
      `the snapshotter ${snapshotter} gives no upper directory: extended attributes but for capabilities, ` +
        'parts of a second in times and socket files are not in the diff',
    ];
    return { bytes, deletedFiles: deleted.length, method: 'diff-service', warnings };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOSPC') {
      throw new KybernateError('DiskFull', `no space for the layer of ${id} below ${destDir}`, { cause: error });
    }
    throw error;
  } finally {
    await removeDiffView(containerd, facts);
    await rm(layer, { force: true });
  }
}

/** Of the lease and of the view of the parent. */
export const DIFF_PREFIX = 'kybernate-diff-';

function diffName(id: string): string {
  return `${DIFF_PREFIX}${id}`;
}

/** Idempotent; a container that was captured by its upper directory has none. */
export async function removeDiffView(
  containerd: Pick<Containerd, 'removeSnapshot' | 'deleteLease'>,
  { ref, record, upperDir, snapshotParent }: ContainerFacts,
): Promise<void> {
  if (upperDir !== undefined || snapshotParent === undefined || record.snapshotter === '') {
    return;
  }
  await containerd.removeSnapshot(ref.namespace, record.snapshotter, diffName(ref.id));
  await containerd.deleteLease(ref.namespace, diffName(ref.id));
}

/** The name that a whiteout deletes; undefined for an ordinary member. */
function deletedBy(member: TarMember): string | undefined {
  const slash = member.name.lastIndexOf('/') + 1;
  const base = member.name.slice(slash);
  if (base === OPAQUE) {
    return member.name.slice(0, Math.max(0, slash - 1));
  }
  return base.startsWith(WHITEOUT) ? member.name.slice(0, slash) + base.slice(WHITEOUT.length) : undefined;
}

/**
 * Copies the ordinary members of an OCI layer to an archive of their own.
 * @returns size of the archive, and the deleted names as byte strings
 */
export async function splitLayer(layer: string, tar: string, op: Op): Promise<{ bytes: number; deleted: string[] }> {
  const deleted: string[] = [];
  const source = await open(layer, 'r');
  const target = await open(tar, 'w', 0o600);
  try {
    const buffer = Buffer.alloc(COPY_BYTES);
    for await (const member of readTarMembers(layer)) {
      op.signal.throwIfAborted();
      const gone = deletedBy(member);
      if (gone !== undefined) {
        deleted.push(gone);
        continue;
      }
      for (let at = member.start; at < member.end;) {
        const { bytesRead } = await source.read(buffer, 0, Math.min(COPY_BYTES, member.end - at), at);
        if (bytesRead === 0) {
          throw new KybernateError('DumpFailed', `the layer ${layer} is cut short at byte ${at}`);
        }
        await target.write(buffer, 0, bytesRead);
        at += bytesRead;
      }
    }
    // two blocks of zeros end an archive
    await target.write(Buffer.alloc(1024));
  } finally {
    await source.close();
    await target.close();
  }
  return { bytes: (await stat(tar)).size, deleted };
}
