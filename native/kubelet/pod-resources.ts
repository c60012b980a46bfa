/*
 * Devices that kubelet has given to containers of this node's pods, by its PodResources API: a unix socket of root's.
 * They are given before the container is made, so whoever makes it can ask.
 * Source: k8s.io/kubelet, pkg/apis/podresources/v1.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Client, credentials, type ServiceError } from '@grpc/grpc-js';
import { loadSync, type MethodDefinition } from '@grpc/proto-loader';
import { KybernateError } from '../../core/errors.ts';
import { protoDirectory } from '../proto-directory.ts';

export interface ContainerOfPod {
  readonly namespace: string;
  readonly name: string;
  readonly container: string;
}

export interface GivenDevice {
  /** for example `nvidia.com/gpu` */
  readonly resource: string;
  /** as its plug-in names it: of NVIDIA's the UUID */
  readonly id: string;
}

/** @returns undefined when no kubelet answers */
export type PodDevices = (of: ContainerOfPod) => Promise<readonly GivenDevice[] | undefined>;

const DEADLINE_MS = 3000;
const MAX_MESSAGE_BYTES = 16 * 1024 * 1024;

interface ListResponse {
  readonly podResources: ReadonlyArray<{
    readonly name: string;
    readonly namespace: string;
    readonly containers: ReadonlyArray<{
      readonly name: string;
      readonly devices: ReadonlyArray<{ readonly resourceName: string; readonly deviceIds: readonly string[] }>;
    }>;
  }>;
}

/** @param socketPath looked at when a question is asked */
export function podDevicesOf(socketPath: string): PodDevices {
  return async ({ namespace, name, container }) => {
    if (!existsSync(socketPath)) {
      return undefined;
    }
    const { podResources } = await list(socketPath);
    const found = podResources
      .filter((pod) => pod.namespace === namespace && pod.name === name)
      .flatMap((pod) => pod.containers)
      .filter((one) => one.name === container);
    return found.flatMap(({ devices }) =>
      devices.flatMap(({ resourceName, deviceIds }) => deviceIds.map((id) => ({ resource: resourceName, id }))),
    );
  };
}

/** @throws NodeUnavailable it does not answer */
function list(socketPath: string): Promise<ListResponse> {
  const method = listMethod();
  const client = new Client(`unix:${socketPath}`, credentials.createInsecure(), {
    'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
    'grpc.enable_http_proxy': 0,
  });
  return new Promise<ListResponse>((resolve, reject) => {
    client.makeUnaryRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      {},
      { deadline: Date.now() + DEADLINE_MS },
      (error: ServiceError | null, response?: object) => {
        if (error === null) {
          resolve(response as ListResponse);
        } else {
          reject(
            new KybernateError(
              'NodeUnavailable',
              `kubelet does not tell at ${socketPath} which devices the pod was given: ${error.details || error.message}`,
              { cause: error },
            ),
          );
        }
      },
    );
  }).finally(() => client.close());
}

let method: MethodDefinition<object, object> | undefined;

function listMethod(): MethodDefinition<object, object> {
  method ??= (
    loadSync('pod-resources.proto', {
      includeDirs: [join(protoDirectory(), 'kubelet')],
      defaults: true,
      arrays: true,
    })['v1.PodResourcesLister'] as unknown as Record<'List', MethodDefinition<object, object>>
  ).List;
  return method;
}
