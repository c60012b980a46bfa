/* The operator: watches both kinds, and gives each object that changes a turn of its controller. */
import { setTimeout as sleep } from 'node:timers/promises';
import { CustomObjectsApi, makeInformer, type KubeConfig, type KubernetesListObject } from '@kubernetes/client-node';
import {
  API_GROUP,
  API_VERSION,
  kubernetesCheckpointStatus,
  kubernetesRestoreStatus,
} from '../core/contract/kubernetes.ts';
import { messageOf } from '../core/errors.ts';
import type { Meter } from '../core/metrics.ts';
import type { Logger } from '../core/op.ts';
import { handleCheckpoint } from './checkpoint-controller.ts';
import { clusterOf } from './cluster.ts';
import { keepLeading, leaseStore, untilLeading, type LeaderOptions } from './leader.ts';
import { PLURALS, identityOf, type Kind, type Stored } from './objects.ts';
import type { Operations } from './operations.ts';
import { handleRestore } from './restore-controller.ts';
import { KINDS, type OperatorState } from './state.ts';
import { WorkQueue } from './work-queue.ts';

const PARALLEL = 16;
const WATCH_AGAIN_MS = 2_000;
/** Turns end within it, but for those that an API server keeps waiting which does not answer. */
const STOP_MS = 5_000;
/** Of an object that nobody has handled yet. */
const NEW = 'New';
const PHASES: Readonly<Record<Kind, readonly string[]>> = {
  Checkpoint: [NEW, ...kubernetesCheckpointStatus.shape.phase.options],
  Restore: [NEW, ...kubernetesRestoreStatus.shape.phase.options],
};

export interface OperatorOptions {
  readonly kubernetes: KubeConfig;
  readonly operations: Operations;
  readonly log: Logger;
  readonly signal: AbortSignal;
  /** kept up to date */
  readonly state: OperatorState;
  readonly meter: Meter;
  /** namespace that is watched; all of them otherwise */
  readonly namespace?: string;
  /** where the lease lies */
  readonly leaseNamespace: string;
  /** of this process among its replicas */
  readonly identity: string;
  /** how the lease is kept; its defaults otherwise */
  readonly lease?: Pick<LeaderOptions, 'renewMs' | 'durationS'>;
}

/** @returns when the signal came, or the lease was lost: the process should end then, and be started again */
export async function runOperator(options: OperatorOptions): Promise<void> {
  const { kubernetes, log, signal, state, leaseNamespace, identity } = options;
  const lease: LeaderOptions = {
    store: leaseStore(kubernetes, leaseNamespace, 'kybernate-operator'),
    identity,
    log,
    signal,
    seen: () => {
      state.leaseSeenMs = performance.now();
    },
    ...options.lease,
  };
  const parts = KINDS.map((kind) => watchKind(options, kind));
  tellMetrics(options, parts);
  try {
    await untilLeading(lease);
  } catch {
    // Aborted while another one led.
    return;
  }
  log.info({ identity }, 'this operator leads');
  state.leads = true;
  parts.forEach((part) => part.start());
  await keepLeading(lease);
  state.leads = false;
  await Promise.all(parts.map((part) => part.stop()));
}

function tellMetrics({ meter, state }: OperatorOptions, parts: readonly Watched[]): void {
  const of = <Value>(each: (part: Watched) => Value[]): Promise<Value[]> => Promise.resolve(parts.flatMap(each));
  meter.gauge('kybernate_operator_leader', () => Promise.resolve([{ labels: {}, value: state.leads ? 1 : 0 }]));
  meter.gauge('kybernate_operator_queue_length', () =>
    of(({ kind, waiting }) => [{ labels: { kind }, value: waiting() }]),
  );
  meter.gauge('kybernate_operator_objects', () =>
    of(({ kind, phases }) => {
      const present = state.leads ? phases() : [];
      return PHASES[kind].map((phase) => ({
        labels: { kind, phase },
        value: present.filter((one) => one === phase).length,
      }));
    }),
  );
}

interface Watched {
  readonly kind: Kind;
  /** of every object */
  readonly phases: () => readonly string[];
  /** objects that wait for their turn */
  readonly waiting: () => number;
  /** Begins; a watch that ends begins again. */
  start(): void;
  /** @returns when the turns under way are over, or hang */
  stop(): Promise<void>;
}

function watchKind(options: OperatorOptions, kind: Kind): Watched {
  const { kubernetes, operations, log, signal, state, meter, namespace } = options;
  const cluster = clusterOf(kubernetes);
  const custom = kubernetes.makeApiClient(CustomObjectsApi);
  const place = { group: API_GROUP, version: API_VERSION, plural: PLURALS[kind] };
  const list = async (): Promise<KubernetesListObject<Stored<Phased>>> =>
    (await (namespace === undefined
      ? custom.listCustomObjectForAllNamespaces({ ...place, resourcePlural: place.plural })
      : custom.listNamespacedCustomObject({ ...place, namespace }))) as KubernetesListObject<Stored<Phased>>;
  const path = `/apis/${API_GROUP}/${API_VERSION}${namespace === undefined ? '' : `/namespaces/${namespace}`}/${place.plural}`;
  const informer = makeInformer<Stored<Phased>>(kubernetes, path, list);
  const deps = { cluster, operations, now: () => new Date() };
  const queue = new WorkQueue({
    parallel: PARALLEL,
    log,
    failed: () => meter.add('kybernate_operator_reconcile_errors_total', { kind }),
    handle: async (key) => {
      const [within = '', name = ''] = key.split('/');
      const object = informer.get(name, within) as Stored<never> | undefined;
      if (object === undefined) {
        return undefined;
      }
      return kind === 'Checkpoint' ? handleCheckpoint(deps, object) : handleRestore(deps, object);
    },
  });
  const wake = (object: Stored<Phased>): void => {
    const { namespace: within, name } = identityOf(object);
    queue.add(`${within}/${name}`);
  };
  informer.on('add', wake);
  informer.on('update', wake);
  informer.on('connect', () => state.watched.add(kind));
  let stopped = false;
  function start(): void {
    if (!stopped) {
      informer.start().catch(again);
    }
  }
  function again(error: unknown): void {
    state.watched.delete(kind);
    log.warn({ kind, error: messageOf(error) }, 'the watch ended; it begins again');
    // Aborted: nobody watches any more.
    sleep(WATCH_AGAIN_MS, undefined, { signal }).then(start, () => undefined);
  }
  informer.on('error', again);
  return {
    kind,
    phases: () => informer.list().map(({ status }) => status?.phase ?? NEW),
    waiting: () => queue.length,
    start,
    async stop() {
      stopped = true;
      await informer.stop();
      state.watched.delete(kind);
      const over = new AbortController();
      const late = sleep(STOP_MS, undefined, { signal: over.signal }).catch(() => undefined);
      await Promise.race([queue.close(), late]);
      over.abort();
    },
  };
}

interface Phased {
  readonly phase?: string;
}
