/* The layers that the restored container's own lies on: without them the root file system would be another one. */
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import { messageOf } from '../../core/errors.ts';
import { caution, type Finding, problem } from '../../core/preflight.ts';
import type { NodeDeps } from '../node-deps.ts';

/** @param namespace of containerd, in which the container is to be */
export async function imageFindings(
  deps: Pick<NodeDeps, 'containerd' | 'settings'>,
  metadata: Metadata,
  namespace: string,
): Promise<Finding[]> {
  const { snapshotter, parent } = metadata.rootfs;
  const { image } = metadata.container;
  const here = image === undefined ? undefined : await deps.containerd.getImage(namespace, image.ref);
  const other: Finding[] =
    image === undefined || here === undefined || here.digest === image.digest
      ? []
      : [caution('image', `${image.ref} is another image here`, { recorded: image.digest, here: here.digest })];
  if (snapshotter === undefined || parent === undefined) {
    return other;
  }
  try {
    if ((await deps.containerd.statSnapshot(namespace, snapshotter, parent)) !== undefined) {
      return other;
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
