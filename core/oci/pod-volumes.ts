/*
 * Directories of a node that are a pod's own: its emptyDir volumes, which live and die with it. They are told by their
 * place below kubelet's directory, where no pod can put anything: a path of the same looks elsewhere may be a hostPath, in
 * which a pod could leave a link to anywhere. The shared memory of a pod is told by the id of its sandbox, which nobody knows
 * before it is made.
 */
import { criAnnotation } from './annotations.ts';
import type { OciSpec } from './spec.ts';

/** Name by which a list of volumes means the shared memory of the pod. */
export const DEV_SHM = '/dev/shm';

export interface EmptyDir {
  /** of the volume in its pod */
  readonly name: string;
  /** of the volume as a whole; of a subPath it must be there: its own path does not tell the kind of its volume */
  readonly dir: string;
}

/**
 * The emptyDir that a mount's source belongs to; undefined for anything else.
 * @param podUid that it must be of; absent: nobody knows it
 * Source: Kubernetes, pkg/kubelet/kubelet_getters.go: `<root>/pods/<uid>/volumes/kubernetes.io~empty-dir/<name>`, and with a
 * subPath `<root>/pods/<uid>/volume-subpaths/<name>/<container>/<index>`.
 */
export function emptyDirOf(source: string, kubeletDir: string, podUid?: string): EmptyDir | undefined {
  const root = `${kubeletDir.replace(/\/+$/, '')}/pods/`;
  if (!source.startsWith(root)) {
    return undefined;
  }
  const below =
    /^([A-Za-z0-9-]+)\/(?:volumes\/kubernetes\.io~empty-dir\/([a-z0-9][a-z0-9-]{0,62})|volume-subpaths\/([a-z0-9][a-z0-9-]{0,62})\/[a-z0-9][a-z0-9-]*\/\d+)\/?$/.exec(
      source.slice(root.length),
    );
  const uid = below?.[1];
  const name = below?.[2] ?? below?.[3];
  if (uid === undefined || name === undefined || (podUid !== undefined && podUid !== uid)) {
    return undefined;
  }
  return { name, dir: `${root}${uid}/volumes/kubernetes.io~empty-dir/${name}` };
}

/**
 * Is it the shared memory that a CRI runtime has made for a pod, and not the host's (`hostIPC`), nor a volume?
 * Source: containerd, internal/cri/server/podsandbox/helpers.go (getSandboxDevShm); CRI-O, server/sandbox_run_linux.go.
 */
export function isSandboxShm(source: string, sandboxId: string | undefined): boolean {
  return (
    sandboxId !== undefined &&
    [`/sandboxes/${sandboxId}/shm`, `/overlay-containers/${sandboxId}/userdata/shm`].some((end) => source.endsWith(end))
  );
}

/**
 * Does a mount's source belong to the pod of the container with this specification, as what kubelet and the CRI runtime make
 * for each pod does? A claim of a pod has its own place below the pod's directory, too; a hostPath has not.
 * Source: as above; kubelet_getters.go: `<root>/pods/<uid>/{volumes,volume-subpaths,containers,etc-hosts}`.
 */
export function isPodsOwn(source: string, spec: Pick<OciSpec, 'annotations'>): boolean {
  const sandboxId = criAnnotation(spec, 'sandboxId');
  const podUid = criAnnotation(spec, 'podUid');
  const parts = [
    ...(sandboxId === undefined ? [] : [`/sandboxes/${sandboxId}/`, `/overlay-containers/${sandboxId}/`]),
    ...(podUid === undefined ? [] : [`/pods/${podUid}/`]),
  ];
  return parts.some((part) => source.includes(part));
}

/** Destinations are compared without a slash at their end. */
export function normalizedDestination(destination: string): string {
  return destination.length > 1 ? destination.replace(/\/+$/, '') : destination;
}
