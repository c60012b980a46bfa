import { KybernateError, messageOf } from '../../core/errors.ts';
import { LONG, openChannel, orUndefined, QUICK, unlessExists, type Channel } from './channel.ts';
import { contentCalls, snapshotCalls } from './client-storage.ts';
import { encodeCheckpointOptions } from './runc-options.ts';
import type {
  AnyMessage,
  CheckpointTask,
  Containerd,
  ContainerRecord,
  CreateTask,
  ImageRecord,
  TaskRecord,
  TaskStatus,
} from './containerd.ts';

const SPEC_TYPE_URL = 'types.containerd.io/opencontainers/runtime-spec/1/Spec';
const CONTAINERS = 'containers.v1.Containers';
const TASKS = 'tasks.v1.Tasks';

interface WireContainer {
  readonly id: string;
  readonly labels: Record<string, string>;
  readonly image: string;
  readonly runtime: { readonly name: string; readonly options: AnyMessage | null } | null;
  readonly spec: AnyMessage | null;
  readonly snapshotter: string;
  readonly snapshotKey: string;
  readonly sandbox: string;
  readonly createdAt: { readonly seconds: number; readonly nanos: number } | null;
}

interface WireProcess {
  readonly containerId: string;
  readonly id: string;
  readonly pid: number;
  readonly status: string;
  readonly stdin: string;
  readonly stdout: string;
  readonly stderr: string;
  readonly terminal: boolean;
  readonly exitStatus: number;
}

const STATUSES: Readonly<Record<string, TaskStatus>> = {
  CREATED: 'created',
  RUNNING: 'running',
  STOPPED: 'stopped',
  PAUSED: 'paused',
  PAUSING: 'pausing',
};

function toRecord(container: WireContainer): ContainerRecord {
  const options = container.runtime?.options ?? null;
  const { createdAt } = container;
  return {
    id: container.id,
    labels: container.labels,
    image: container.image,
    runtime: { name: container.runtime?.name ?? '', ...(options === null ? {} : { options }) },
    spec: new TextDecoder().decode(container.spec?.value ?? new Uint8Array()),
    snapshotter: container.snapshotter,
    snapshotKey: container.snapshotKey,
    sandboxId: container.sandbox,
    ...(createdAt === null
      ? {}
      : { createdAt: new Date(createdAt.seconds * 1000 + createdAt.nanos / 1_000_000).toISOString() }),
  };
}

function fromRecord(container: ContainerRecord): object {
  return {
    id: container.id,
    labels: container.labels,
    image: container.image,
    runtime: container.runtime,
    spec: { typeUrl: SPEC_TYPE_URL, value: new TextEncoder().encode(container.spec) },
    snapshotter: container.snapshotter,
    snapshotKey: container.snapshotKey,
    sandbox: container.sandboxId,
  };
}

/** A task or container that must be there. */
async function mustExist<T>(pending: Promise<T>, namespace: string, id: string): Promise<T> {
  const found = await orUndefined(pending.then((value) => ({ value })));
  if (found === undefined) {
    throw new KybernateError(
      'ContainerNotFound',
      `containerd has no task of container ${id} in namespace ${namespace}`,
      {
        details: { grpcCode: 'NOT_FOUND', namespace, id },
      },
    );
  }
  return found.value;
}

/**
 * containerd over its unix socket. Nothing is sent before the first call.
 * Errors: `Internal` (`details.grpcCode`, see `grpcCodeOf`), `DiskFull`, `ContainerNotFound`.
 */
export function connectContainerd(address: string): Containerd {
  const channel = openChannel(address);
  return {
    ...versionCalls(channel),
    ...containerCalls(channel),
    ...taskCalls(channel),
    ...snapshotCalls(channel),
    ...contentCalls(channel),
    close: () => channel.close(),
  };
}

function versionCalls({
  call,
}: Channel): Pick<Containerd, 'version' | 'getImage' | 'createLease' | 'deleteLease' | 'listLeases'> {
  return {
    async version() {
      const answer = await call<{ version: string }>('default', 'version.v1.Version', 'Version', {}, QUICK);
      return answer.version;
    },
    async getImage(namespace, name) {
      interface Answer {
        image: { name: string; target: { digest: string } | null } | null;
      }
      const answer = await orUndefined(call<Answer>(namespace, 'images.v1.Images', 'Get', { name }, QUICK));
      const image = answer?.image ?? undefined;
      const digest = image?.target?.digest;
      return image === undefined || digest === undefined
        ? undefined
        : ({ name: image.name, digest } satisfies ImageRecord);
    },
    async createLease(namespace, id, labels) {
      await unlessExists(call(namespace, 'leases.v1.Leases', 'Create', { id, labels }, QUICK));
    },
    async deleteLease(namespace, id) {
      await orUndefined(call(namespace, 'leases.v1.Leases', 'Delete', { id }, QUICK));
    },
    async listLeases(namespace) {
      const answer = await call<{ leases: { id: string }[] }>(namespace, 'leases.v1.Leases', 'List', {}, QUICK);
      return answer.leases.map(({ id }) => id);
    },
  };
}

function containerCalls({
  call,
}: Channel): Pick<Containerd, 'getContainer' | 'listContainers' | 'createContainer' | 'deleteContainer'> {
  return {
    async getContainer(namespace, id) {
      const answer = await orUndefined(
        call<{ container: WireContainer | null }>(namespace, CONTAINERS, 'Get', { id }, QUICK),
      );
      return answer?.container ? toRecord(answer.container) : undefined;
    },
    async listContainers(namespace, filters) {
      const answer = await call<{ containers: WireContainer[] }>(namespace, CONTAINERS, 'List', { filters }, QUICK);
      return answer.containers.map(toRecord);
    },
    async createContainer(namespace, container) {
      await call(namespace, CONTAINERS, 'Create', { container: fromRecord(container) }, QUICK);
    },
    async deleteContainer(namespace, id) {
      await orUndefined(call(namespace, CONTAINERS, 'Delete', { id }, QUICK));
    },
  };
}

/** The shim ended by itself during the call: containerd has cleaned up behind it, or does so at the next call. */
const SHIM_ENDED = ': ttrpc: closed';

type TaskCalls =
  | 'getTask'
  | 'createTask'
  | 'startTask'
  | 'killTask'
  | 'deleteTask'
  | 'waitTask'
  | 'pauseTask'
  | 'resumeTask'
  | 'checkpointTask';

/** By a channel of the caller's. */
export function taskCalls({ call }: Pick<Channel, 'call'>): Pick<Containerd, TaskCalls> {
  return {
    async getTask(namespace, id) {
      const answer = await orUndefined(
        call<{ process: WireProcess | null }>(namespace, TASKS, 'Get', { containerId: id }, QUICK),
      );
      const process = answer?.process ?? undefined;
      return process === undefined ? undefined : toTask(process, id);
    },
    async createTask(namespace, task: CreateTask) {
      const { id, ...rest } = task;
      const answer = await call<{ pid: number }>(namespace, TASKS, 'Create', { containerId: id, ...rest }, LONG);
      return { pid: answer.pid };
    },
    async startTask(namespace, id) {
      const answer = await mustExist(
        call<{ pid: number }>(namespace, TASKS, 'Start', { containerId: id }, LONG),
        namespace,
        id,
      );
      return { pid: answer.pid };
    },
    async killTask(namespace, id, signal, all) {
      // NOT_FOUND also means "process already finished": what was wanted
      await orUndefined(call(namespace, TASKS, 'Kill', { containerId: id, signal, all }, QUICK));
    },
    async deleteTask(namespace, id) {
      const once = (): Promise<{ exitStatus: number } | undefined> =>
        orUndefined(call<{ exitStatus: number }>(namespace, TASKS, 'Delete', { containerId: id }, LONG));
      const answer = await once().catch((error: unknown) => {
        if (messageOf(error).endsWith(SHIM_ENDED)) {
          return once();
        }
        throw error;
      });
      return answer === undefined ? undefined : { exitStatus: answer.exitStatus };
    },
    async waitTask(namespace, id, signal) {
      const pending = call<{ exitStatus: number }>(namespace, TASKS, 'Wait', { containerId: id }, { signal });
      const answer = await mustExist(pending, namespace, id);
      return { exitStatus: answer.exitStatus };
    },
    async pauseTask(namespace, id) {
      await mustExist(call(namespace, TASKS, 'Pause', { containerId: id }, QUICK), namespace, id);
    },
    async resumeTask(namespace, id) {
      await mustExist(call(namespace, TASKS, 'Resume', { containerId: id }, QUICK), namespace, id);
    },
    async checkpointTask(namespace, id, options: CheckpointTask, signal) {
      const request = { containerId: id, options: encodeCheckpointOptions(options) };
      await mustExist(call(namespace, TASKS, 'Checkpoint', request, { ...LONG, signal }), namespace, id);
    },
  };
}

function toTask(process: WireProcess, id: string): TaskRecord {
  return {
    id: process.id === '' ? id : process.id,
    pid: process.pid,
    status: STATUSES[process.status] ?? 'unknown',
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    terminal: process.terminal,
    exitStatus: process.exitStatus,
  };
}
