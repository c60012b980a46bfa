/* The operator: watches both kinds, and gives each object that changes a turn of its controller. */
import { setTimeout as sleep } from 'node:timers/promises';
import { CustomObjectsApi, makeInformer, type KubeConfig, type KubernetesListObject } from '@kubernetes/client-node';
import { API_GROUP, API_VERSION } from '../core/contract/kubernetes.ts';
import { messageOf } from '../core/errors.ts';
import type { Logger } from '../core/op.ts';
import { handleCheckpoint } from './checkpoint-controller.ts';
import { clusterOf } from './cluster.ts';
import { keepLeading, leaseStore, untilLeading, type LeaderOptions } from './leader.ts';
import { PLURALS, identityOf, type Kind, type Stored } from './objects.ts';
import type { Operations } from './operations.ts';
import { handleRestore } from './restore-controller.ts';
import { WorkQueue } from './work-queue.ts';

const PARALLEL = 16;
const WATCH_AGAIN_MS = 2_000;

export interface OperatorOptions {
  readonly kubernetes: KubeConfig;
  readonly operations: Operations;
  readonly log: Logger;
  readonly signal: AbortSignal;
  /** namespace that is watched; all of them otherwise */
  readonly namespace?: string;
  /** where the lease lies */
  readonly leaseNamespace: string;
  /** of this process among its replicas */
  readonly identity: string;
}

/** @returns when the signal came, or the lease was lost: the process should end then, and be started again */
export async function runOperator(options: OperatorOptions): Promise<void> {
  const { kubernetes, log, signal, leaseNamespace, identity } = options;
  const lease: LeaderOptions = {
    store: leaseStore(kubernetes, leaseNamespace, 'kybernate-operator'),
    identity,
    log,
    signal,
  };
  try {
    await untilLeading(lease);
  } catch {
    // Aborted while another one led.
    return;
  }
  log.info({ identity }, 'this operator leads');
  const parts = [watchKind(options, 'Checkpoint'), watchKind(options, 'Restore')];
  await Promise.all(parts.map((part) => part.start()));
  await keepLeading(lease);
  await Promise.all(parts.map((part) => part.stop()));
}

interface Watched {
  start(): Promise<void>;
  stop(): Promise<void>;
}

function watchKind(options: OperatorOptions, kind: Kind): Watched {
  const { kubernetes, operations, log, signal, namespace } = options;
  const cluster = clusterOf(kubernetes);
  const custom = kubernetes.makeApiClient(CustomObjectsApi);
  const place = { group: API_GROUP, version: API_VERSION, plural: PLURALS[kind] };
  const list = async (): Promise<KubernetesListObject<Stored<never>>> =>
    (await (namespace === undefined
      ? custom.listCustomObjectForAllNamespaces({ ...place, resourcePlural: place.plural })
      : custom.listNamespacedCustomObject({ ...place, namespace }))) as KubernetesListObject<Stored<never>>;
  const path = `/apis/${API_GROUP}/${API_VERSION}${namespace === undefined ? '' : `/namespaces/${namespace}`}/${place.plural}`;
  const informer = makeInformer<Stored<never>>(kubernetes, path, list);
  const deps = { cluster, operations, now: () => new Date() };
  const queue = new WorkQueue({
    parallel: PARALLEL,
    log,
    handle: async (key) => {
      const [within = '', name = ''] = key.split('/');
      const object = informer.get(name, within);
      if (object === undefined) {
        return undefined;
      }
      return kind === 'Checkpoint' ? handleCheckpoint(deps, object) : handleRestore(deps, object);
    },
  });
  const wake = (object: Stored<never>): void => {
    const { namespace: within, name } = identityOf(object);
    queue.add(`${within}/${name}`);
  };
  informer.on('add', wake);
  informer.on('update', wake);
  informer.on('error', (error: unknown) => {
    log.warn({ kind, error: messageOf(error) }, 'the watch ended; it begins again');
    sleep(WATCH_AGAIN_MS, undefined, { signal })
      .then(() => informer.start())
      // Aborted: nobody watches any more.
      .catch(() => undefined);
  });
  return {
    start: () => informer.start(),
    async stop() {
      await informer.stop();
      await queue.close();
    },
  };
}
