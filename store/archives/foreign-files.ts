/*
 * The files of a checkpoint archive as Podman, CRI-O and containerd write it, and where they go in a checkpoint of ours.
 * Sources: checkpoint-restore/checkpointctl, lib/metadata.go; podman, libpod/container_internal_common.go; containerd,
 * internal/cri/server/container_checkpoint_linux.go. docs/archives.md has the same as a table.
 */
import type { ForeignFormat } from '../../core/oci/foreign-spec.ts';

export const FOREIGN_FILES = {
  spec: 'spec.dump',
  config: 'config.dump',
  rootfsDiff: 'rootfs-diff.tar',
  deletedFiles: 'deleted.files',
  devShm: 'devshm-checkpoint.tar',
  dumpLog: 'dump.log',
  stats: 'stats-dump',
  networkStatus: 'network.status',
  statusDump: 'status.dump',
  /** containerd's own record of the container */
  status: 'status',
  bindMounts: 'bind.mounts',
  logPath: 'io.kubernetes.cri-o.LogPath',
  podOptions: 'pod.options',
  podDump: 'pod.dump',
} as const;

/** CRIU's images. */
export const FOREIGN_IMAGES = 'checkpoint';
/** Content of Podman's named volumes, one tar each. */
export const FOREIGN_VOLUMES = 'volumes';

/** Without them there is nothing to restore. */
export const REQUIRED_FILES = [
  FOREIGN_FILES.spec,
  FOREIGN_FILES.config,
  `${FOREIGN_IMAGES}/inventory.img`,
  `${FOREIGN_IMAGES}/pstree.img`,
] as const;

/** What an archive of that engine usually has; told when it is missing. */
export const EXPECTED_FILES: Readonly<Record<ForeignFormat, readonly string[]>> = {
  podman: [FOREIGN_FILES.rootfsDiff, FOREIGN_FILES.networkStatus, FOREIGN_FILES.stats],
  'cri-o': [FOREIGN_FILES.rootfsDiff, FOREIGN_FILES.stats, FOREIGN_FILES.bindMounts],
  containerd: [FOREIGN_FILES.rootfsDiff, FOREIGN_FILES.statusDump, FOREIGN_FILES.dumpLog],
};
