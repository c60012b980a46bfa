/* What is known of a running container, as plain JSON: it travels to the runner in plan.json. */
import type { Metadata, ProcessTree } from '../core/checkpoint/metadata.ts';
import type { IdMapping } from '../core/oci/user-namespace.ts';
import type { ContainerRecord } from '../native/containerd/containerd.ts';
import type { ProcessInfo } from '../native/proc/tree.ts';
import type { Freezer } from './freezer.ts';

export interface ContainerId {
  readonly namespace: string;
  readonly id: string;
}

export interface MountFacts {
  readonly destination: string;
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
  /** false: its content comes from outside (a bind mount) and is not in the checkpoint */
  readonly captured: boolean;
  /** of a bind mount: what lies at its source, and on which type of file system */
  readonly sourceKind?: string;
  readonly sourceFileSystem?: string;
}

/** What confines the first process. */
export interface SecurityFacts {
  readonly lsm: 'none' | 'apparmor' | 'selinux';
  /** profile (AppArmor) or label (SELinux); `unconfined` without one */
  readonly label: string;
}

export interface ProcessFacts extends ProcessInfo {
  /** joined the container by exec: no descendant of init, so CRIU does not dump it and a restore does not have it */
  readonly entered: boolean;
}

/** As in the metadata of a checkpoint. */
export type DockerFacts = NonNullable<Metadata['container']['docker']>;

/**
 * A tree of processes of the host has the same facts, and `tree`: no record of containerd stands behind it, so its `record`
 * is empty, and nobody made its mounts.
 */
export interface ContainerFacts {
  readonly ref: ContainerId;
  readonly record: ContainerRecord;
  readonly initHostPid: number;
  readonly initStartTime: number;
  /** root first */
  readonly processes: readonly ProcessFacts[];
  readonly freezer: Freezer;
  /** processes in the container's cgroup that live in another pid namespace, outside of the container */
  readonly foreignHostPids: readonly number[];
  /** absent for a container; what its restore needs to know of a tree of processes */
  readonly tree?: Omit<ProcessTree, 'files'>;
  /** runc's `--root` for this container */
  readonly runcRoot: string;
  /** absent when runc does not know the container */
  readonly bundle?: string;
  readonly networkNamespace: {
    readonly inode: number;
    /** made for this container alone; false for the host's and for one that it joined (a pod's) */
    readonly private: boolean;
    readonly kind: 'host' | 'own' | 'joined';
    /** of the one that it joined */
    readonly path?: string;
  };
  readonly stdio: {
    readonly terminal: boolean;
    readonly stdin: string;
    readonly stdout: string;
    readonly stderr: string;
  };
  readonly mounts: readonly MountFacts[];
  /** absent in plans of an older version */
  readonly security?: SecurityFacts;
  /** upper directory of the root overlay; absent for other file systems */
  readonly upperDir?: string;
  /** chain id of the image's top layer */
  readonly snapshotParent?: string;
  /** the snapshotter shows those layers as others' than they are, for a user namespace; absent: as they are */
  readonly idMapping?: IdMapping;
  readonly image?: { readonly ref: string; readonly digest: string; readonly configDigest?: string };
  /** absent for a container that is not Docker's */
  readonly docker?: DockerFacts;
  readonly pod?: {
    readonly namespace: string;
    readonly name: string;
    readonly uid?: string;
    readonly container: string;
  };
}
