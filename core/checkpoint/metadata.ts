/*
 * metadata.json: what a checkpoint is, readable without any of our code. Schema version 1. Additive changes keep the
 * version; a reader ignores fields that it does not know.
 */
import * as z from 'zod';
import { containerId, namespace } from '../contract/common.ts';

export const METADATA_VERSION = 1;

const phaseTimes = z.object({
  freezeMs: z.number(),
  /** from the first lock to the last unlock; absent without a GPU process */
  gpuPauseMs: z.number().optional(),
  totalMs: z.number(),
  unaccountedMs: z.number(),
  parts: z.record(z.string(), z.number()),
});

/** A tree of processes of the host. Its files are the host's: they are not in the checkpoint, and must be as they were. */
const processTree = z.object({
  /** pid and start time of the source's root */
  pid: z.number(),
  startTime: z.number(),
  args: z.array(z.string()),
  cwd: z.string(),
  uid: z.number(),
  gid: z.number(),
  /** every pid and thread id, which a restore takes again */
  ids: z.array(z.number()),
  /** whether its session is led by one of its own processes */
  session: z.enum(['own', 'outside']),
  /** a terminal is open whose master is outside of the tree: a restore needs another one */
  terminal: z.boolean(),
  /** namespaces that are its own: net, ipc, uts */
  ownNamespaces: z.array(z.string()),
  /** pipes with an end outside of the tree, by the name that CRIU's images give them */
  pipes: z.array(z.object({ key: z.string(), fd: z.number(), write: z.boolean() })),
  /** regular files that were open, with their length at the freeze: CRIU refuses another one */
  files: z.array(z.object({ path: z.string(), bytes: z.number() })),
});
export type ProcessTree = z.output<typeof processTree>;

/** The content of a directory that is not the container's own, but lives no longer than its pod. */
const capturedVolume = z.object({
  /** in its pod; `/dev/shm` is the pod's shared memory, or what the pod has mounted there */
  name: z.string().regex(/^(?:\/dev\/shm|[a-z0-9][a-z0-9-]{0,62})$/),
  /** where the container had it: the place of a restore, too */
  destination: z.string().regex(/^\//),
  /** below the directory of the checkpoint */
  file: z.string().regex(/^fs\/(?:volume-\d{1,3}|dev-shm)\.tar$/),
});
export type CapturedVolume = z.output<typeof capturedVolume>;

export const metadata = z.object({
  version: z.literal(METADATA_VERSION),
  checkpointId: z.string(),
  /** ISO time of the commit */
  createdAt: z.string(),
  labels: z.record(z.string(), z.string()),
  container: z.object({
    id: containerId,
    namespace,
    /** containerd runtime of the source, for example `io.containerd.runc.v2` */
    runtime: z.string(),
    /**
     * image reference and digest, and the digest of its configuration, which Docker and Podman call its id; absent for a
     * container made from a root file system
     */
    image: z.object({ ref: z.string(), digest: z.string(), configDigest: z.string().optional() }).optional(),
    labels: z.record(z.string(), z.string()),
    /** when the container was made; absent where nobody knows */
    createdAt: z.string().optional(),
    /** how Docker had made it, in Docker's own words; absent for a container that was not Docker's */
    docker: z
      .object({
        name: z.string(),
        image: z.object({ ref: z.string(), id: z.string() }),
        config: z.record(z.string(), z.unknown()),
        hostConfig: z.record(z.string(), z.unknown()),
        /** network to its endpoint */
        networks: z.record(z.string(), z.record(z.string(), z.unknown())),
        mounts: z.array(
          z.object({
            type: z.string(),
            name: z.string().optional(),
            source: z.string(),
            destination: z.string(),
            writable: z.boolean(),
          }),
        ),
        version: z.string(),
      })
      .optional(),
    pod: z
      .object({ namespace: z.string(), name: z.string(), uid: z.string().optional(), container: z.string() })
      .optional(),
  }),
  node: z.object({
    name: z.string(),
    hostname: z.string(),
    kernel: z.string(),
    arch: z.string(),
    cpuModel: z.string(),
    cpuFlags: z.array(z.string()),
    /** `vendor_id` of /proc/cpuinfo, on arm64 `CPU implementer` */
    cpuVendor: z.string().optional(),
    /** AT_MINSIGSTKSZ: a signal frame with the processor's whole state */
    signalFrameBytes: z.number().optional(),
    cgroupVersion: z.union([z.literal(1), z.literal(2)]),
    criuVersion: z.string(),
    runcVersion: z.string(),
    containerdVersion: z.string(),
    gpuDriver: z.string().optional(),
  }),
  capture: z.object({
    /** who called CRIU; `criu`: we did, by its RPC, for a tree of processes */
    engine: z.enum(['runc', 'containerd', 'criu']),
    /** capture method behind the engine: `criu` is the plain one */
    method: z.string(),
    tcp: z.enum(['keep', 'close']),
    after: z.enum(['resume', 'hold', 'stop']),
    criuOptions: z.array(z.object({ option: z.string(), reason: z.string() })),
    phases: phaseTimes,
    /** local ports of its TCP sockets */
    tcpPorts: z.array(z.int().min(0).max(65_535)).optional(),
    /** where it listens; wildcards are `0.0.0.0` and `::` */
    listening: z.array(z.object({ address: z.string(), port: z.int().min(0).max(65_535) })).optional(),
    /** its own addresses of connections that were open */
    connectedAddresses: z.array(z.string()).optional(),
    /** memory in reserved huge pages, by the size of a page */
    hugePages: z.array(z.object({ pageBytes: z.number(), bytes: z.number() })).optional(),
    /**
     * every pid and thread id, as the container saw them; only of one that shares a pid namespace: a restore takes them
     * again, and others may have them
     */
    ids: z.array(z.int().min(1)).optional(),
    /** the connections stay locked by this nftables table of the source's network namespace until the restore */
    networkHold: z.object({ table: z.string(), networkNamespace: z.string() }).optional(),
  }),
  /** what confined its first process: the security module, and profile (AppArmor) or label (SELinux) */
  security: z.object({ lsm: z.enum(['none', 'apparmor', 'selinux']), label: z.string() }).optional(),
  /** host pid, pid in the container, parent (host), command; root first */
  processes: z.array(
    z.object({
      hostPid: z.number(),
      nsPid: z.number(),
      parentHostPid: z.number(),
      command: z.string(),
      threads: z.number(),
    }),
  ),
  /** what the captured tree is when it is no container: processes of the host */
  process: processTree.optional(),
  /** VRAM is inside CRIU's images: the driver moves it to memory of the process */
  gpuProcesses: z.array(
    z.object({
      hostPid: z.number(),
      nsPid: z.number(),
      vramBytes: z.number(),
      /** UUIDs of the devices on which it held VRAM */
      devices: z.array(z.string()),
      /** UUIDs of all that it could see, by minor: a restore on others must name every one */
      visible: z.array(z.string()),
    }),
  ),
  /** the GPUs that were visible to the container; absent without a GPU process */
  gpu: z
    .object({
      driver: z.string(),
      devices: z.array(
        z.object({
          uuid: z.string(),
          name: z.string(),
          minor: z.number(),
          memoryTotalBytes: z.number(),
          computeCapability: z.string(),
          /** VRAM that the container's processes held on it */
          usedBytes: z.number(),
        }),
      ),
    })
    .optional(),
  stdio: z.object({ terminal: z.boolean(), stdin: z.string(), stdout: z.string(), stderr: z.string() }),
  /** as in the OCI specification, plus what /proc says */
  mounts: z.array(
    z.object({
      destination: z.string(),
      type: z.string(),
      source: z.string(),
      options: z.array(z.string()),
      captured: z.boolean(),
      /** what lies at the source of a bind mount: directory, file, character device, ... or `absent` */
      sourceKind: z.string().optional(),
      /** type of the file system that it lies on */
      sourceFileSystem: z.string().optional(),
    }),
  ),
  /**
   * Mounts that a hook made (the NVIDIA runtime's in its old style) and the specification does not know: where in the
   * container, and which path of the source's node. CRIU's images name them by their destination.
   */
  hookMounts: z.array(z.object({ destination: z.string(), source: z.string() })).optional(),
  /** volumes of its pod whose content is in the checkpoint, each in a tar, and a /dev/shm from outside */
  volumes: z.array(capturedVolume).optional(),
  rootfs: z.object({
    /** `overlay`: diff of the upper directory; `diff-service`: containerd's; `none`: a host directory, not captured */
    method: z.enum(['overlay', 'diff-service', 'none']),
    snapshotter: z.string().optional(),
    /** chain id of the image's top layer: parent of the new rw layer at restore */
    parent: z.string().optional(),
    /** as whose its files are shown in a user namespace, in the form of containerd's snapshot labels; absent: unchanged */
    idMapping: z.object({ uid: z.string(), gid: z.string() }).optional(),
    deletedFiles: z.number(),
  }),
  networkNamespace: z.string().optional(),
  sizes: z.object({ totalBytes: z.number(), imageBytes: z.number(), rootfsBytes: z.number() }),
  /** Merkle root of manifest.json: fixes every byte of every file */
  merkleRoot: z.string(),
  parent: z.string().optional(),
  /** where it was imported from an archive of another engine: nobody vouches for it but the one who imported it */
  origin: z
    .object({
      format: z.enum(['podman', 'cri-o', 'containerd']),
      form: z.enum(['archive', 'oci-image']),
      /** image of the root file system as that engine named it; the node that restores must have it */
      image: z.object({ name: z.string(), configDigest: z.string().optional() }).optional(),
      /** what was changed in its specification, whose original is origin/spec.dump */
      specChanges: z.array(z.object({ field: z.string(), why: z.string() })),
      /** files that such archives may have and this one had not */
      missing: z.array(z.string()),
      /** files that are carried as they were, below origin/ */
      carried: z.array(z.string()),
    })
    .optional(),
  warnings: z.array(z.string()),
});
export type Metadata = z.output<typeof metadata>;
