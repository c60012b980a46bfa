/*
 * A device plug-in that gives whole GPUs to pods as NVIDIA's does in its plainest form: the container gets a variable with
 * the UUIDs, and its runtime does the rest. Source: k8s.io/kubelet, pkg/apis/deviceplugin/v1beta1.
 */
import { rmSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { Client, credentials, Server, ServerCredentials, type ServiceDefinition } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';

/** The same whatever kubelet's --root-dir is. */
const KUBELET_SOCKET = '/var/lib/kubelet/device-plugins/kubelet.sock';
export const RESOURCE = 'nvidia.com/gpu';

interface AllocateRequest {
  readonly containerRequests: ReadonlyArray<{ readonly deviceIds: readonly string[] }>;
}

/** Offers the GPUs to the kubelet of this machine until it is closed. */
export async function offerGpus(uuids: readonly string[]): Promise<{ close(): void }> {
  const services = loadSync('device-plugin.proto', {
    includeDirs: [import.meta.dirname],
    defaults: true,
    arrays: true,
  });
  const [plugin, registration] = ['v1beta1.DevicePlugin', 'v1beta1.Registration'].map(
    (name) => services[name] as ServiceDefinition,
  );
  const socket = join(dirname(KUBELET_SOCKET), `gpus-${process.pid}.sock`);
  const server = new Server();
  server.addService(plugin ?? {}, {
    getDevicePluginOptions: (_call: unknown, answer: (error: null, value: object) => void) => answer(null, {}),
    // Stays open: the list never changes.
    listAndWatch: (call: { write(value: object): void }) =>
      call.write({ devices: uuids.map((id) => ({ id, health: 'Healthy' })) }),
    allocate: (call: { request: AllocateRequest }, answer: (error: null, value: object) => void) =>
      answer(null, {
        containerResponses: call.request.containerRequests.map(({ deviceIds }) => ({
          envs: { NVIDIA_VISIBLE_DEVICES: deviceIds.join(',') },
        })),
      }),
  });
  await new Promise<void>((resolve, reject) => {
    server.bindAsync(`unix:${socket}`, ServerCredentials.createInsecure(), (error) =>
      error === null ? resolve() : reject(error),
    );
  });
  await register(registration?.['Register'], {
    version: 'v1beta1',
    endpoint: basename(socket),
    resourceName: RESOURCE,
  });
  return {
    close() {
      server.forceShutdown();
      rmSync(socket, { force: true });
    },
  };
}

function register(method: ServiceDefinition[string] | undefined, request: object): Promise<void> {
  const client = new Client(`unix:${KUBELET_SOCKET}`, credentials.createInsecure());
  return new Promise<void>((resolve, reject) => {
    if (method === undefined) {
      throw new Error('device-plugin.proto has no call Register');
    }
    client.makeUnaryRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      request,
      { deadline: Date.now() + 10_000 },
      (error) => (error === null ? resolve() : reject(error)),
    );
  }).finally(() => client.close());
}
