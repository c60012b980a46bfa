/*
 * What containerd must have for the restored container: the layers that its own lies on, since without them the root file
 * system would be another one; room for its own; and its name.
 */
import { statfs } from 'node:fs/promises';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import type { IdMapping } from '../../core/oci/user-namespace.ts';
import { messageOf } from '../../core/errors.ts';
import { LABELS } from '../../core/oci/annotations.ts';
import { caution, type Finding, problem } from '../../core/preflight.ts';
import { REMAPS_IDS } from '../imported-image.ts';
import type { NodeDeps } from '../node-deps.ts';
import { listOperations } from '../operation.ts';
import { readRestore } from '../restore-operation.ts';

/** @param namespace of containerd, in which the container is to be */
export async function imageFindings(
  deps: Pick<NodeDeps, 'containerd' | 'settings'>,
  metadata: Metadata,
  namespace: string,
): Promise<Finding[]> {
  const { snapshotter, parent, idMapping } = metadata.rootfs;
  const { image } = metadata.container;
  const here = image === undefined ? undefined : await deps.containerd.getImage(namespace, image.ref);
  const other: Finding[] =
    image === undefined || here === undefined || here.digest === image.digest
      ? []
      : [caution('image', `${image.ref} is another image here`, { recorded: image.digest, here: here.digest })];
  if (metadata.origin !== undefined && parent === undefined) {
    return [imageOfOrigin(metadata, namespace)];
  }
  if (snapshotter === undefined || parent === undefined) {
    return other;
  }
  try {
    if ((await deps.containerd.statSnapshot(namespace, snapshotter, parent)) !== undefined) {
      return [
        ...other,
        ...(await remapFindings(deps, snapshotter, idMapping)),
        ...(await layerRoom(deps, snapshotter, metadata.sizes.rootfsBytes)),
      ];
    }
  } catch (error) {
    // containerd's words for a plug-in that it does not have.
    if (!/snapshotter not loaded/.test(messageOf(error))) {
      throw error;
    }
    return [
      ...other,
      problem('snapshotter', `containerd has no snapshotter ${snapshotter}`, { recorded: snapshotter }),
    ];
  }
  const pull = image === undefined ? '' : `; pull ${image.ref} (${image.digest}) on ${deps.settings.node} first`;
  return [
    ...other,
    problem('image', `the image layer ${parent} is not in snapshotter ${snapshotter}, namespace ${namespace}${pull}`, {
      recorded: parent,
    }),
  ];
}

/** Without it the files of the image would be those of users whom the container does not have. */
async function remapFindings(
  { containerd }: Pick<NodeDeps, 'containerd'>,
  snapshotter: string,
  idMapping: IdMapping | undefined,
): Promise<Finding[]> {
  if (idMapping === undefined || (await containerd.snapshotterCapabilities(snapshotter)).includes(REMAPS_IDS)) {
    return [];
  }
  return [
    problem(
      'snapshotter',
      `the snapshotter ${snapshotter} cannot show the image as that of the users of the user namespace (${idMapping.uid}; ` +
        `containerd's capability ${REMAPS_IDS}, from Linux 5.19 on): restore on a node whose snapshotter can`,
    ),
  ];
}

/** @param bytes of the writable layer's changes, as a tar */
async function layerRoom(deps: Pick<NodeDeps, 'containerd'>, snapshotter: string, bytes: number): Promise<Finding[]> {
  const dir = await deps.containerd.snapshotterDir(snapshotter);
  if (dir === undefined) {
    return [];
  }
  const { bavail, bsize } = await statfs(dir);
  const freeBytes = bavail * bsize;
  return freeBytes >= bytes
    ? []
    : [
        problem('disk', `${dir} has ${freeBytes} bytes free, the changes of the writable layer need ${bytes}`, {
          recorded: `${bytes} bytes`,
          here: `${freeBytes} bytes`,
        }),
      ];
}

/**
 * A restore itself refuses a taken name with `InvalidInput`: no other node or copy would help. What a restore that has not
 * come to its end made under the name does not take it: that is undone before another one makes its own.
 */
export async function nameFindings(
  { containerd, settings }: Pick<NodeDeps, 'containerd' | 'settings'>,
  { namespace, id }: { readonly namespace: string; readonly id: string },
): Promise<Finding[]> {
  const existing = await containerd.getContainer(namespace, id);
  const maker = existing?.labels[LABELS.operation] ?? '';
  // A label is anybody's: only the name of an operation becomes a path.
  const restore = (await listOperations(settings)).includes(maker) ? readRestore(settings, maker) : undefined;
  const unfinished = restore !== undefined && restore.state !== 'restored' && restore.state !== 'cold-started';
  return existing === undefined || unfinished
    ? []
    : [problem('name', `${namespace}/${id} exists already on ${settings.node}`, { here: `${namespace}/${id}` })];
}

/** Nothing but its name is known of an image that another engine had. */
function imageOfOrigin({ origin }: Metadata, namespace: string): Finding {
  const name = origin?.image?.name;
  return problem(
    'image',
    name === undefined
      ? 'the archive does not name the image of its root file system'
      : `the image ${name} is not in namespace ${namespace} of containerd: pull it there, or import it, under this name`,
  );
}
