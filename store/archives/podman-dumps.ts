/*
 * spec.dump and config.dump as Podman reads them at `podman container restore --import`. It makes its own bundle from
 * them: storage, cgroup, log and pid files are set anew, mounts that it adds itself are in no image of CRIU and are left
 * out by it.
 * Source: podman, libpod/container_config.go, libpod/runtime_ctr.go and pkg/checkpoint/checkpoint_restore.go, 4.3 and 5.8.
 */
import { withLoopback } from '../../core/oci/loopback.ts';
import { namespaceKind, type OciSpec, specText } from '../../core/oci/spec.ts';
import type { DumpInput } from './exported-file.ts';
import { FOREIGN_FILES } from './foreign-files.ts';

const KUBERNETES = ['io.kubernetes.', 'io.containerd.', 'kybernate.io/'];

export function podmanDumps({ spec, metadata, containerId, image }: DumpInput): Record<string, string> {
  const network = namespaceKind(spec, 'network');
  const config = {
    id: containerId,
    name: metadata.container.id.slice(0, 64),
    lockID: 0,
    RawImageName: image.name,
    idMappingsOptions: { HostUIDMapping: true, HostGIDMapping: true, UIDMap: null, GIDMap: null },
    Dependencies: null,
    rootfsImageID: image.id,
    rootfsImageName: image.name,
    // Its /dev/shm is a mount of its own, and in the images.
    NOShmShare: true,
    NoShm: true,
    shmSize: 0,
    staticDir: '',
    secretsPath: '',
    storageOpts: null,
    privileged: false,
    createNetNS: network === 'joined',
    ...(network === 'joined' ? {} : { networkMode: network === 'host' ? 'host' : 'none' }),
    UseImageResolvConf: false,
    UseImageHosts: false,
    labels: metadata.container.labels,
    command: spec.process?.args ?? [],
    stopSignal: 15,
    stopTimeout: 10,
    createdTime: metadata.container.createdAt ?? metadata.createdAt,
    checkpointedTime: metadata.createdAt,
    // No parent: Podman takes that of its cgroup manager, and refuses one of the other.
    cgroupsMode: 'enabled',
    logPath: '',
    logTag: '',
    logSize: 0,
    logDriver: 'k8s-file',
    postConfigureNetNS: false,
    runtime: 'runc',
    pause: false,
    isService: false,
    healthcheck: null,
    mountAllDevices: false,
  };
  return {
    [FOREIGN_FILES.spec]: specText(podmanSpec(spec, containerId)),
    [FOREIGN_FILES.config]: JSON.stringify(config),
    [FOREIGN_FILES.networkStatus]: 'null',
  };
}

function podmanSpec(spec: OciSpec, containerId: string): OciSpec {
  const annotations = Object.entries(spec.annotations ?? {}).filter(
    ([key]) => !KUBERNETES.some((prefix) => key.startsWith(prefix)),
  );
  return {
    // Hooks are programs of the node that the container was on.
    ...withLoopback({ ...spec, hooks: {} }),
    annotations: { ...Object.fromEntries(annotations), 'io.container.manager': 'libpod' },
    linux: { ...spec.linux, cgroupsPath: `/libpod_parent/libpod-${containerId}` },
  };
}
