/*
 * spec.dump, config.dump, status.dump and status as containerd's CRI plug-in writes them for the kubelet's checkpoint API.
 * Source: containerd 2.4, internal/cri/server/container_checkpoint_linux.go and container_status.go,
 * internal/cri/store/container/status.go; checkpointctl, lib/metadata.go.
 */
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import { type OciSpec, specText } from '../../core/oci/spec.ts';
import type { DumpInput } from './exported-file.ts';
import { FOREIGN_FILES } from './foreign-files.ts';

/** Go's time.Time that was never set. */
const NEVER = '0001-01-01T00:00:00Z';
/** CONTAINER_RUNNING of the CRI. */
const RUNNING = 1;
const NANOSECONDS_A_MS = 1_000_000;

export function criDumps({ spec, metadata, containerId, image }: DumpInput): Record<string, string> {
  const { container, createdAt } = metadata;
  const ref = imageRef(container, image);
  const name = container.pod?.container ?? container.id;
  const config = {
    id: containerId,
    name: fullName(container),
    rootfsImage: image.name,
    rootfsImageRef: ref,
    rootfsImageName: image.name,
    runtime: container.runtime,
    createdTime: container.createdAt ?? createdAt,
    checkpointedTime: createdAt,
    restoredTime: NEVER,
    restored: false,
  };
  const madeAt = Date.parse(container.createdAt ?? createdAt) * NANOSECONDS_A_MS;
  const status = {
    id: containerId,
    metadata: { name },
    state: RUNNING,
    created_at: madeAt,
    started_at: madeAt,
    image: { image: image.name },
    image_ref: ref,
    labels: labelsOfPod(container.labels),
    annotations: {},
    mounts: [],
  };
  const own = {
    Version: 'v1',
    Pid: metadata.processes[0]?.hostPid ?? 0,
    CreatedAt: madeAt,
    StartedAt: madeAt,
    FinishedAt: 0,
    ExitCode: 0,
    Reason: '',
    Message: '',
    Resources: null,
  };
  return {
    [FOREIGN_FILES.spec]: specText(criSpec(spec, { ...metadata.container.pod, container: name })),
    [FOREIGN_FILES.config]: JSON.stringify(config),
    [FOREIGN_FILES.statusDump]: JSON.stringify(status),
    [FOREIGN_FILES.status]: JSON.stringify(own),
  };
}

/** As the plug-in names a container, which no restart is known of: container, pod, its namespace, its uid, attempt. */
function fullName({ id, pod }: Metadata['container']): string {
  return pod === undefined ? id : [pod.container, pod.name, pod.namespace, pod.uid ?? '', '0'].join('_');
}

/** Those that the kubelet gave; the plug-in adds its own to the container. */
function labelsOfPod(labels: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(labels).filter(([key]) => !key.startsWith('io.cri-containerd.')));
}

/**
 * A name under which a node has the image or can pull it: `sha256:<id>` as the CRI plug-in names every image, or
 * `<repository>@<digest>`, which is what a pull leaves.
 */
function imageRef({ image: source }: Metadata['container'], image: DumpInput['image']): string {
  if (/^[0-9a-f]{64}$/.test(image.id)) {
    return `sha256:${image.id}`;
  }
  return source === undefined ? image.id : `${repositoryOf(source.ref)}@${source.digest}`;
}

/** Without tag and digest; a colon before the last slash is that of a port. */
function repositoryOf(name: string): string {
  return name.replace(/@.*$/, '').replace(/:[^/:]*$/, '');
}

/** By these annotations checkpointctl knows pod and container. */
function criSpec(spec: OciSpec, pod: { container: string; namespace?: string; name?: string }): OciSpec {
  const { 'io.container.manager': _manager, ...kept } = spec.annotations ?? {};
  return {
    ...spec,
    annotations: {
      ...kept,
      'io.kubernetes.cri.container-type': 'container',
      'io.kubernetes.cri.container-name': pod.container,
      ...(pod.namespace === undefined ? {} : { 'io.kubernetes.cri.sandbox-namespace': pod.namespace }),
      ...(pod.name === undefined ? {} : { 'io.kubernetes.cri.sandbox-name': pod.name }),
    },
  };
}
