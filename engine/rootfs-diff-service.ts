/*
 * The layer of a snapshotter without an upper directory: containerd compares the snapshot with its parent and writes an
 * OCI layer, in which a deleted name is an empty file `.wh.<name>` and an opaque directory holds `.wh..wh..opq`.
 */
import { createWriteStream } from 'node:fs';
import { rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { FS_FILES } from '../core/checkpoint/file-names.ts';
import { KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import type { ContainerFacts } from './inspect.ts';
import type { RootfsCapture, RootfsDeps } from './rootfs.ts';
import { listTar } from './tar-list.ts';

const WHITEOUT = '.wh.';
const OPAQUE = '.wh..wh..opq';

export async function captureByDiffService(
  deps: RootfsDeps,
  facts: ContainerFacts,
  destDir: string,
  op: Op,
): Promise<RootfsCapture> {
  const containerd = deps.containerd();
  const { namespace } = facts.ref;
  const { snapshotter, snapshotKey } = facts.record;
  const view = `kybernate-view-${snapshotKey}`;
  const layer = join(destDir, `${FS_FILES.rootfsDiff}.layer`);
  try {
    const lower = await containerd.viewSnapshot(namespace, snapshotter, view, facts.snapshotParent ?? '');
    const upper = await containerd.snapshotMounts(namespace, snapshotter, snapshotKey);
    const { digest } = await containerd.diff(namespace, lower, upper, `kybernate-${snapshotKey}`);
    await pipeline(containerd.readContent(namespace, digest), createWriteStream(layer, { mode: 0o600 }), {
      signal: op.signal,
    });
    await containerd.deleteContent(namespace, digest);
    return await fromLayer(deps, layer, destDir);
  } finally {
    await containerd.removeSnapshot(namespace, snapshotter, view);
    await rm(layer, { force: true });
  }
}

async function fromLayer(deps: RootfsDeps, layer: string, destDir: string): Promise<RootfsCapture> {
  const deleted: string[] = [];
  for (const name of await listTar(deps.run, layer)) {
    const slash = name.lastIndexOf('/') + 1;
    const base = name.slice(slash);
    if (base === OPAQUE) {
      deleted.push(name.slice(0, Math.max(0, slash - 1)));
    } else if (base.startsWith(WHITEOUT)) {
      deleted.push(name.slice(0, slash) + base.slice(WHITEOUT.length));
    }
  }
  const tar = join(destDir, FS_FILES.rootfsDiff);
  await rm(tar, { force: true });
  const copied = await deps.run('cp', ['--reflink=auto', '--', layer, tar]);
  const cleaned = await deps.run('tar', ['--delete', `--file=${tar}`, '--wildcards', `*/${WHITEOUT}*`, `${WHITEOUT}*`]);
  // tar reports a pattern that matches nothing as an error; what counts is that no whiteout is left.
  const left = (await listTar(deps.run, tar)).some((name) =>
    name.slice(name.lastIndexOf('/') + 1).startsWith(WHITEOUT),
  );
  if (copied.exitCode !== 0 || left) {
    throw new KybernateError(
      'DumpFailed',
      `the layer of the container could not be rewritten: ${copied.stderr}${cleaned.stderr}`,
    );
  }
  await writeFile(join(destDir, FS_FILES.deletedFiles), `${JSON.stringify(deleted.sort())}\n`, { mode: 0o600 });
  return { bytes: (await stat(tar)).size, deletedFiles: deleted.length, method: 'diff-service', warnings: [] };
}
