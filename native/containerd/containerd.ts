/*
 * What Kybernate asks of containerd, as one interface, so that the engine can be tested with a literal object.
 * Implemented over gRPC by client.ts. Absent things are `undefined`, not errors, where a caller asks for one thing.
 */

export interface ContainerRecord {
  readonly id: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly image: string;
  readonly runtime: { readonly name: string; readonly options?: AnyMessage };
  /** OCI runtime specification, as JSON text */
  readonly spec: string;
  readonly snapshotter: string;
  readonly snapshotKey: string;
  readonly sandboxId: string;
  /** ISO 8601; containerd sets it */
  readonly createdAt?: string;
}

export interface AnyMessage {
  readonly typeUrl: string;
  readonly value: Uint8Array;
}

export interface Mount {
  readonly type: string;
  readonly source: string;
  readonly target: string;
  readonly options: readonly string[];
}

export type TaskStatus = 'unknown' | 'created' | 'running' | 'stopped' | 'paused' | 'pausing';

export interface TaskRecord {
  readonly id: string;
  readonly pid: number;
  readonly status: TaskStatus;
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
  readonly terminal: boolean;
  readonly exitStatus: number;
}

export interface CreateTask {
  readonly id: string;
  readonly rootfs: readonly Mount[];
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
  readonly terminal: boolean;
  readonly options?: AnyMessage;
  readonly runtimePath?: string;
}

export interface CheckpointTask {
  readonly imagePath: string;
  readonly workPath: string;
  /** true ends the task after the dump */
  readonly exit: boolean;
  readonly openTcp: boolean;
  readonly externalUnixSockets: boolean;
  readonly terminal: boolean;
  readonly fileLocks: boolean;
}

export interface SnapshotInfo {
  readonly name: string;
  readonly parent: string;
  readonly kind: string;
  readonly labels: Readonly<Record<string, string>>;
}

export interface ImageRecord {
  readonly name: string;
  readonly digest: string;
}

/** Every method takes the containerd namespace first. Errors carry the gRPC code and text, as KybernateError where one fits. */
export interface Containerd {
  version(): Promise<string>;
  getContainer(namespace: string, id: string): Promise<ContainerRecord | undefined>;
  /** filters in containerd's syntax, for example `labels."io.kubernetes.pod.name"==web` */
  listContainers(namespace: string, filters: readonly string[]): Promise<ContainerRecord[]>;
  createContainer(namespace: string, container: ContainerRecord): Promise<void>;
  deleteContainer(namespace: string, id: string): Promise<void>;
  getTask(namespace: string, id: string): Promise<TaskRecord | undefined>;
  createTask(namespace: string, task: CreateTask): Promise<{ pid: number }>;
  startTask(namespace: string, id: string): Promise<{ pid: number }>;
  killTask(namespace: string, id: string, signal: number, all: boolean): Promise<void>;
  /** absent task is success */
  deleteTask(namespace: string, id: string): Promise<{ exitStatus: number } | undefined>;
  waitTask(namespace: string, id: string, signal?: AbortSignal): Promise<{ exitStatus: number }>;
  pauseTask(namespace: string, id: string): Promise<void>;
  resumeTask(namespace: string, id: string): Promise<void>;
  checkpointTask(namespace: string, id: string, options: CheckpointTask, signal?: AbortSignal): Promise<void>;
  statSnapshot(namespace: string, snapshotter: string, key: string): Promise<SnapshotInfo | undefined>;
  prepareSnapshot(
    namespace: string,
    snapshotter: string,
    key: string,
    parent: string,
    labels: Readonly<Record<string, string>>,
  ): Promise<Mount[]>;
  /** @param lease owner of the view; without one it lives until it is removed */
  viewSnapshot(namespace: string, snapshotter: string, key: string, parent: string, lease?: string): Promise<Mount[]>;
  snapshotMounts(namespace: string, snapshotter: string, key: string): Promise<Mount[]>;
  /** absent snapshot is success */
  removeSnapshot(namespace: string, snapshotter: string, key: string): Promise<void>;
  /** where a snapshotter keeps its layers; undefined when it is not loaded, or does not tell */
  snapshotterDir(snapshotter: string): Promise<string | undefined>;
  /** for example `remap-ids`; none when it is not loaded */
  snapshotterCapabilities(snapshotter: string): Promise<readonly string[]>;
  getImage(namespace: string, name: string): Promise<ImageRecord | undefined>;
  /** containerd's Diff service: an uncompressed layer tar of right over left, with OCI whiteouts, in the content store, owned by the lease */
  diff(
    namespace: string,
    left: readonly Mount[],
    right: readonly Mount[],
    ref: string,
    lease?: string,
  ): Promise<{ digest: string; size: number }>;
  readContent(namespace: string, digest: string): AsyncIterable<Uint8Array>;
  deleteContent(namespace: string, digest: string): Promise<void>;
  createLease(namespace: string, id: string, labels: Readonly<Record<string, string>>): Promise<void>;
  deleteLease(namespace: string, id: string): Promise<void>;
  /** ids; none in a namespace that does not exist */
  listLeases(namespace: string): Promise<string[]>;
  close(): void;
}
