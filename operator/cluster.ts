/* What the operator asks of the apiserver; tests give literal objects in its place. */
import {
  ApiException,
  CoreV1Api,
  CustomObjectsApi,
  PatchStrategy,
  setHeaderOptions,
  type KubeConfig,
} from '@kubernetes/client-node';
import { API_GROUP, API_VERSION } from '../core/contract/kubernetes.ts';
import { KybernateError } from '../core/errors.ts';
import type { Pod } from './plain.ts';
import { PLURALS, type CheckpointObject, type Kind, type RestoreObject } from './objects.ts';

export interface ObjectRef {
  readonly kind: Kind;
  readonly namespace: string;
  readonly name: string;
}

export interface Cluster {
  /** @returns undefined when there is none */
  pod(namespace: string, name: string): Promise<Pod | undefined>;
  /**
   * @returns undefined when one of this name is there already
   * @throws InvalidInput, RestoreRefused: what the API server says to this pod, it would say again
   */
  createPod(namespace: string, pod: Pod): Promise<Pod | undefined>;
  /**
   * The pod that was looked at, as it was; one that is gone is as good as deleted.
   * @throws ApiException 409 it is another one by now, or something has changed: look again
   */
  deletePod(pod: Pod): Promise<void>;
  /** @returns undefined when there is none */
  checkpoint(namespace: string, name: string): Promise<CheckpointObject | undefined>;
  /** All of a namespace. */
  restores(namespace: string): Promise<readonly RestoreObject[]>;
  /** Is it part of the cluster? It counts as such where this operator may not look. */
  hasNode(name: string): Promise<boolean>;
  /** An object that is gone is left alone. */
  patchStatus(ref: ObjectRef, status: object): Promise<void>;
  /** Replaces the list, if nobody has changed the object since. @throws ApiException 409 somebody has */
  setFinalizers(ref: ObjectRef, finalizers: readonly string[], resourceVersion: string | undefined): Promise<void>;
}

const MERGE = setHeaderOptions('Content-Type', PatchStrategy.MergePatch);

export function clusterOf(config: KubeConfig): Cluster {
  const core = config.makeApiClient(CoreV1Api);
  const custom = config.makeApiClient(CustomObjectsApi);
  const place = ({ kind, namespace, name }: ObjectRef): Place => ({
    group: API_GROUP,
    version: API_VERSION,
    plural: PLURALS[kind],
    namespace,
    name,
  });
  return {
    pod: (namespace, name) => unless(404, core.readNamespacedPod({ namespace, name })),
    createPod: (namespace, body) => unless(409, judged(core.createNamespacedPod({ namespace, body }))),
    async deletePod({ metadata }) {
      const { namespace = '', name = '', uid = '', resourceVersion = '' } = metadata ?? {};
      const body = { preconditions: { uid, resourceVersion } };
      await unless(404, core.deleteNamespacedPod({ namespace, name, body }));
    },
    checkpoint: (namespace, name) =>
      unless(404, custom.getNamespacedCustomObject(place({ kind: 'Checkpoint', namespace, name }))) as Promise<
        CheckpointObject | undefined
      >,
    async restores(namespace) {
      const all = { group: API_GROUP, version: API_VERSION, plural: PLURALS.Restore, namespace };
      const { items } = (await custom.listNamespacedCustomObject(all)) as { items: RestoreObject[] };
      return items;
    },
    async hasNode(name) {
      try {
        return (await unless(404, core.readNode({ name }))) !== undefined;
      } catch (error) {
        // Who watches one namespace may not look at nodes.
        if (error instanceof ApiException && error.code === 403) {
          return true;
        }
        throw error;
      }
    },
    async patchStatus(ref, status) {
      await unless(404, custom.patchNamespacedCustomObjectStatus({ ...place(ref), body: { status } }, MERGE));
    },
    async setFinalizers(ref, finalizers, resourceVersion) {
      const body = { metadata: { finalizers, ...(resourceVersion === undefined ? {} : { resourceVersion }) } };
      await unless(404, custom.patchNamespacedCustomObject({ ...place(ref), body }, MERGE));
    },
  };
}

interface Place {
  readonly group: string;
  readonly version: string;
  readonly plural: string;
  readonly namespace: string;
  readonly name: string;
}

async function judged<Result>(call: Promise<Result>): Promise<Result> {
  try {
    return await call;
  } catch (error) {
    if (!(error instanceof ApiException) || ![400, 403, 422].includes(error.code)) {
      throw error;
    }
    const type = error.code === 403 ? 'RestoreRefused' : 'InvalidInput';
    throw new KybernateError(type, `the API server does not take the pod: ${wordsOf(error)}`, { cause: error });
  }
}

/** Of the `Status` that the API server answers with. */
function wordsOf({ body, message }: ApiException<unknown>): string {
  try {
    const status: unknown = typeof body === 'string' ? JSON.parse(body) : body;
    const told = (status as { readonly message?: unknown } | null)?.message;
    return typeof told === 'string' ? told : message;
  } catch {
    // No Status: what the client makes of it.
    return message;
  }
}

async function unless<Result>(code: number, call: Promise<Result>): Promise<Result | undefined> {
  try {
    return await call;
  } catch (error) {
    if (error instanceof ApiException && error.code === code) {
      return undefined;
    }
    throw error;
  }
}
