/*
 * The specification of a new container that is to continue a captured one: the captured one under a new name, free of
 * what tied it to its old place.
 */
import { ANNOTATIONS, RESTORE_FROM_VARIABLE } from './annotations.ts';
import { type GpuFit, withGpus, withoutGpus } from './gpu-fit.ts';
import type { OciMount, OciNamespace, OciSpec } from './spec.ts';

export interface RestoredSpecInput {
  readonly captured: OciSpec;
  readonly source: { readonly namespace: string; readonly id: string };
  readonly container: { readonly namespace: string; readonly id: string };
  readonly operationId: string;
  /** checkpoint id or path */
  readonly restoreFrom: string;
  readonly tcp: 'keep' | 'close';
  readonly onFailure: 'fail' | 'cold-start';
  readonly unverified: boolean;
  /** instead of the captured one */
  readonly networkNamespace?: string;
  /** instead of the captured ones (own-mounts.ts) */
  readonly mounts?: readonly OciMount[];
  /** absent for a checkpoint without GPU processes */
  readonly gpu?: GpuFit;
}

/*
 * Written by the CRI plug-in, which does not know the new container, and by nerdctl and the stock shim for grouping:
 * with them the new container would end up in the shim of a pod that it does not belong to.
 */
const FOREIGN_ANNOTATIONS = ['io.kubernetes.', 'io.containerd.runc.v2.group', 'kybernate.io/'];

export function restoredSpec(input: RestoredSpecInput): OciSpec {
  const { captured } = input;
  const linux =
    input.gpu === undefined ? (captured.linux ?? {}) : withGpus(withoutGpus(captured.linux ?? {}), input.gpu.nodes);
  const kept = Object.entries(captured.annotations ?? {}).filter(
    ([key]) => !FOREIGN_ANNOTATIONS.some((prefix) => key.startsWith(prefix)),
  );
  const env = (captured.process?.env ?? []).filter((entry) => !entry.startsWith(`${RESTORE_FROM_VARIABLE}=`));
  return {
    ...captured,
    ...(input.mounts === undefined ? {} : { mounts: input.mounts }),
    ...(captured.process === undefined ? {} : { process: { ...captured.process, env } }),
    annotations: {
      ...Object.fromEntries(kept),
      [ANNOTATIONS.restoreFrom]: input.restoreFrom,
      [ANNOTATIONS.operation]: input.operationId,
      [ANNOTATIONS.tcp]: input.tcp,
      [ANNOTATIONS.onFailure]: input.onFailure,
      ...(input.unverified ? { [ANNOTATIONS.unverified]: 'true' } : {}),
    },
    linux: {
      ...linux,
      ...(linux.cgroupsPath === undefined ? {} : { cgroupsPath: cgroupsPath(linux.cgroupsPath, input) }),
      namespaces: (linux.namespaces ?? []).map((namespace) => fitNamespace(namespace, input.networkNamespace)),
    },
  };
}

/** systemd form `slice:prefix:name`, or a path whose last part names the container. */
function cgroupsPath(captured: string, { source, container }: RestoredSpecInput): string {
  if (captured.includes(':')) {
    return [...captured.split(':').slice(0, -1), container.id].join(':');
  }
  if (captured === `/${source.namespace}/${source.id}`) {
    return `/${container.namespace}/${container.id}`;
  }
  return [...captured.split('/').slice(0, -1), container.id].join('/');
}

/**
 * A path below /proc names the namespace of a process that may be gone, and its pid somebody else's by now. IPC and UTS
 * are in the images in any case and come back as the container's own; network and pid are not, so the path stays and
 * `namespaceReasons` has its say.
 */
function fitNamespace(namespace: OciNamespace, networkNamespace: string | undefined): OciNamespace {
  if (namespace.type === 'network' && networkNamespace !== undefined) {
    return { ...namespace, path: networkNamespace };
  }
  const fragile = isOfProcess(namespace.path) && (namespace.type === 'ipc' || namespace.type === 'uts');
  return fragile ? { type: namespace.type } : namespace;
}

/** @param exists whether a path is there on this node */
export function namespaceReasons(spec: OciSpec, exists: (path: string) => boolean): readonly string[] {
  return (spec.linux?.namespaces ?? []).flatMap(({ type, path }) => {
    if (path === undefined || path === '') {
      return [];
    }
    if (isOfProcess(path)) {
      return [`${type} namespace: ${path} belongs to a process of the source and is not a safe place to join`];
    }
    return exists(path) ? [] : [`${type} namespace: ${path} does not exist on this node`];
  });
}

function isOfProcess(path: string | undefined): boolean {
  return path !== undefined && /^\/proc\/\d+\//.test(path);
}
