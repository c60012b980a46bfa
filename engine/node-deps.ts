import type { HookSettings } from '../core/hooks.ts';
import type { RestoreGrant } from '../core/oci/restore-grants.ts';
import type { Containerd } from '../native/containerd/containerd.ts';
import type { Docker } from '../native/docker/docker.ts';
import type { GpuDriverOrNot } from '../native/cuda/gpu-driver.ts';
import type { PodDevices } from '../native/kubelet/pod-resources.ts';
import type { Run } from '../native/run/run.ts';

/** What one node is told once, at start (environment → workers/config.ts). All paths are absolute. */
export interface NodeSettings {
  readonly node: string;
  /** `checkpoints/`, survives a reboot */
  readonly stateDir: string;
  /** free space of its disk that stays free; absent: all may be used */
  readonly minFreeBytes?: number;
  /** tmpfs: `operations/`, `locks/`, `agent.sock` */
  readonly runDir: string;
  readonly containerdAddress: string;
  /** of the containerd with Docker's containers; absent: the same */
  readonly dockerContainerdAddress?: string;
  readonly runcPath: string;
  readonly criuPath: string;
  /** PATH of the programs that are started: CRIU's directory first, since runc looks it up there */
  readonly programPath: string;
  /** holds criu-keeper under the name `criu` (native/src/criu-keeper.c); absent: CRIU runs without it */
  readonly keeperDir?: string;
  /** libcuda and NVML of the driver: a soname or an absolute path */
  readonly cudaLibrary: string;
  readonly nvmlLibrary: string;
  /** how a runner process is started; the operation's directory is added as the last argument */
  readonly runnerCommand: readonly string[];
  /** the same of the freeze guard; absent: operations have none */
  readonly guardCommand?: readonly string[];
  /** root-owned directories below which `restore-from` may name a path */
  readonly restoreRoots: readonly string[];
  /** does a container's RESTORE_FROM variable count? Ids only, and off under Kubernetes. */
  readonly restoreFromEnvironment: boolean;
  /** whose checkpoints pods may be restored from, beside those of their own namespace */
  readonly restoreGrants?: readonly RestoreGrant[];
  /** may a pod's NVIDIA_VISIBLE_DEVICES say which GPUs are its own, where kubelet names none? */
  readonly podGpusFromEnvironment?: boolean;
  /** kubelet's `--root-dir`, below which the volumes of pods lie; absent: where it is by default */
  readonly kubeletDir?: string;
  /** of all volumes that one checkpoint takes along; absent: 16 GiB */
  readonly volumeLimitBytes?: number;
  /** programs of the node's owner that run at moments of an operation; absent: none */
  readonly hooks?: HookSettings;
  /** containerd runtime for restored containers */
  readonly restoreRuntime: string;
  /** group that may read committed checkpoints, the sidecar's; absent: root alone */
  readonly sidecarGroupId?: number;
}

/** What the engine needs from the node; literal fakes in tests. */
export interface NodeDeps {
  readonly settings: NodeSettings;
  readonly containerd: Containerd;
  readonly run: Run;
  /** the node's Docker daemon, which may be away; absent: containers are never Docker's */
  readonly docker?: Docker;
  /** the node's GPU driver, loaded at the first call; a node without one says why */
  readonly gpu: () => GpuDriverOrNot;
  /** devices that kubelet gave to a pod's container; undefined where no kubelet answers; absent: there is none */
  readonly podDevices?: PodDevices;
}
