/* The parts of a container's facts that its specification, its snapshot and its labels tell. */
import { isBind, namespaceKind, namespacePath, type OciSpec } from '../core/oci/spec.ts';
import { ID_MAPPING_LABELS } from '../core/oci/user-namespace.ts';
import type { ContainerRecord, SnapshotInfo, TaskRecord } from '../native/containerd/containerd.ts';
import { openFds } from '../native/proc/fds.ts';
import { mountAt, readMounts } from '../native/proc/mounts.ts';
import { namespaceInode } from '../native/proc/ns.ts';
import type { ContainerFacts, ContainerId, MountFacts } from './container-facts.ts';
import { configDigestOf } from './imported-image.ts';
import type { NodeDeps } from './node-deps.ts';
import { pathFacts } from '../native/proc/path-facts.ts';

/** Labels that the CRI plug-in sets; sources: kubelet's pkg/kubelet/types/labels.go, containerd's internal/cri/labels. */
export const POD_NAMESPACE = 'io.kubernetes.pod.namespace';
export const POD_NAME = 'io.kubernetes.pod.name';
const POD_UID = 'io.kubernetes.pod.uid';
export const POD_CONTAINER = 'io.kubernetes.container.name';
export const CRI_KIND = 'io.cri-containerd.kind';

export function networkOf(spec: OciSpec, initHostPid: number): ContainerFacts['networkNamespace'] {
  const kind = namespaceKind(spec, 'network');
  const path = namespacePath(spec, 'network');
  return {
    inode: namespaceInode(initHostPid, 'net') ?? 0,
    private: kind === 'own',
    kind,
    ...(path === undefined ? {} : { path }),
  };
}

/** `null`, `pipe`, `terminal`, `socket`, `file` or `closed`: what init holds as 0, 1 and 2. */
export function stdioOf(spec: OciSpec, task: TaskRecord, initHostPid: number): ContainerFacts['stdio'] {
  const open = new Map(openFds(initHostPid).map((entry) => [entry.fd, entry]));
  const kindOf = (fd: number): string => {
    const entry = open.get(fd);
    if (entry === undefined) {
      return 'closed';
    }
    if (entry.kind === 'device') {
      return entry.target === '/dev/null' ? 'null' : 'terminal';
    }
    return entry.kind === 'pipe' || entry.kind === 'socket' ? entry.kind : 'file';
  };
  return {
    terminal: task.terminal || spec.process?.terminal === true,
    stdin: kindOf(0),
    stdout: kindOf(1),
    stderr: kindOf(2),
  };
}

/** CRIU makes the container's own file systems again, a tmpfs with its content; a bind mount must be there already. */
export function mountsOf(spec: OciSpec): MountFacts[] {
  return (spec.mounts ?? []).map((mount) => ({
    destination: mount.destination,
    type: mount.type ?? (isBind(mount) ? 'bind' : ''),
    source: mount.source ?? '',
    options: mount.options ?? [],
    captured: !isBind(mount),
    ...(isBind(mount) ? sourceFacts(mount.source ?? '') : {}),
  }));
}

function sourceFacts(source: string): Pick<MountFacts, 'sourceKind' | 'sourceFileSystem'> {
  const found = pathFacts(source);
  return found === undefined
    ? { sourceKind: 'absent' }
    : {
        sourceKind: found.kind,
        ...(found.fileSystem === undefined ? {} : { sourceFileSystem: found.fileSystem }),
      };
}

export async function rootOf(
  deps: NodeDeps,
  ref: ContainerId,
  record: ContainerRecord,
  initHostPid: number,
): Promise<Pick<ContainerFacts, 'upperDir' | 'snapshotParent' | 'idMapping'>> {
  const { snapshotter, snapshotKey } = record;
  if (snapshotter === '' || snapshotKey === '') {
    // Docker before its containerd image store mounts the overlay itself
    const root = mountAt(readMounts(initHostPid), '/');
    const upperDir = root?.type === 'overlay' ? optionOf(root.superOptions, 'upperdir') : undefined;
    return upperDir === undefined ? {} : { upperDir };
  }
  const snapshot = await deps.containerd.statSnapshot(ref.namespace, snapshotter, snapshotKey);
  const mounts = await deps.containerd.snapshotMounts(ref.namespace, snapshotter, snapshotKey);
  const overlay = mounts.find((mount) => mount.type === 'overlay');
  // a snapshot without a parent is one directory: all of it is the container's own layer
  const alone = snapshot?.parent === '' ? mounts.find((mount) => mount.type === 'bind')?.source : undefined;
  const upperDir = overlay === undefined ? alone : optionOf(overlay.options, 'upperdir');
  return {
    ...(upperDir === undefined ? {} : { upperDir }),
    ...(snapshot === undefined || snapshot.parent === '' ? {} : { snapshotParent: snapshot.parent }),
    ...mappingOf(snapshot),
  };
}

function mappingOf(snapshot: SnapshotInfo | undefined): Pick<ContainerFacts, 'idMapping'> {
  const { [ID_MAPPING_LABELS.uid]: uid, [ID_MAPPING_LABELS.gid]: gid } = snapshot?.labels ?? {};
  return uid === undefined || gid === undefined ? {} : { idMapping: { uid, gid } };
}

function optionOf(options: readonly string[], name: string): string | undefined {
  return options.find((option) => option.startsWith(`${name}=`))?.slice(name.length + 1);
}

export async function imageOf(
  deps: NodeDeps,
  ref: ContainerId,
  record: ContainerRecord,
): Promise<Pick<ContainerFacts, 'image'>> {
  const image = record.image === '' ? undefined : await deps.containerd.getImage(ref.namespace, record.image);
  if (image === undefined) {
    return {};
  }
  const configDigest = await configDigestOf(deps, ref.namespace, image.digest);
  return {
    image: { ref: image.name, digest: image.digest, ...(configDigest === undefined ? {} : { configDigest }) },
  };
}

export function podOf({ labels }: ContainerRecord): Pick<ContainerFacts, 'pod'> {
  const { [POD_NAMESPACE]: namespace, [POD_NAME]: name, [POD_CONTAINER]: container, [POD_UID]: uid } = labels;
  if (namespace === undefined || name === undefined || container === undefined) {
    return {};
  }
  return { pod: { namespace, name, container, ...(uid === undefined ? {} : { uid }) } };
}
