/*
 * spec.dump, config.dump and status.dump as containerd's CRI plug-in writes them for the kubelet's checkpoint API.
 * Source: containerd 2.4, internal/cri/server/container_checkpoint_linux.go; checkpointctl, lib/metadata.go.
 */
import { type OciSpec, specText } from '../../core/oci/spec.ts';
import type { DumpInput } from './exported-file.ts';
import { FOREIGN_FILES } from './foreign-files.ts';

/** Go's time.Time that was never set. */
const NEVER = '0001-01-01T00:00:00Z';

export function criDumps({ spec, metadata, containerId, image }: DumpInput): Record<string, string> {
  const { container, createdAt } = metadata;
  const ref = /^[0-9a-f]{64}$/.test(image.id) ? `sha256:${image.id}` : (container.image?.digest ?? image.id);
  const name = container.pod?.container ?? container.id;
  const config = {
    id: containerId,
    name,
    rootfsImage: image.name,
    rootfsImageRef: ref,
    rootfsImageName: image.name,
    runtime: container.runtime,
    createdTime: createdAt,
    checkpointedTime: createdAt,
    restoredTime: NEVER,
    restored: false,
  };
  const status = {
    id: containerId,
    metadata: { name },
    state: 1,
    image: { image: image.name },
    image_ref: ref,
    labels: container.labels,
    annotations: {},
    mounts: [],
  };
  return {
    [FOREIGN_FILES.spec]: specText(criSpec(spec, { ...metadata.container.pod, container: name })),
    [FOREIGN_FILES.config]: JSON.stringify(config),
    [FOREIGN_FILES.statusDump]: JSON.stringify(status),
  };
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
