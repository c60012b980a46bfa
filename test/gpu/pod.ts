/*
 * Pods as containerd's CRI plug-in makes them, by ctr: a sandbox with a network namespace, and containers in its namespaces
 * and its shim, under Kybernate's runtime, with the annotations and labels of the plug-in. And the one answer of kubelet that
 * a restore asks for: which devices it gave to a container.
 */
import { randomUUID } from 'node:crypto';
import { rmSync } from 'node:fs';

import { Server, ServerCredentials, type sendUnaryData, type ServiceDefinition } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';

import { protoDirectory } from '../../native/proto-directory.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { assert, BUSYBOX, type Environment } from './environment.ts';

export const RUNTIME = ['--runtime', 'io.containerd.runc.kybernate.v1'];
export const POD_NAMESPACE = 'ml';
export const APP = 'app';

const CRI = 'io.kubernetes.cri';

/** A network namespace with loopback up: a pod's outlives its containers. */
export async function networkNamespace(name: string): Promise<{ path: string; remove: () => Promise<void> }> {
  const ip = async (...args: string[]): Promise<void> => {
    const result = await runExeca('ip', args);
    assert(result.exitCode === 0, `ip ${args.join(' ')}: ${result.startError ?? result.stderr}`);
  };
  await ip('netns', 'add', name);
  await ip('-n', name, 'link', 'set', 'lo', 'up');
  return { path: `/run/netns/${name}`, remove: () => ip('netns', 'del', name) };
}

function pairs(flag: string, values: Readonly<Record<string, string>>): string[] {
  return Object.entries(values).flatMap(([key, value]) => [flag, `${key}=${value}`]);
}

export interface Pod {
  readonly name: string;
  readonly uid: string;
  /** of `ctr run`, for its container `app` */
  readonly flags: readonly string[];
}

export class Pods {
  readonly #env: Environment;
  readonly #networks: Array<() => Promise<void>> = [];
  #kubelet: Server | undefined;

  private constructor(env: Environment) {
    this.#env = env;
  }

  /** Removes every container of the environment, and the pods, whatever happens. */
  static async use(env: Environment, act: (pods: Pods) => Promise<void>): Promise<void> {
    const pods = new Pods(env);
    try {
      await act(pods);
    } finally {
      pods.forgetDevices();
      await env.removeAll();
      for (const remove of pods.#networks) {
        await remove();
      }
    }
  }

  /** @param annotations of the pod: the plug-in hands them to its sandbox as to its containers */
  async start(name: string, annotations: Readonly<Record<string, string>> = {}): Promise<Pod> {
    const env = this.#env;
    const network = await networkNamespace(`kyb-${name}`);
    this.#networks.push(network.remove);
    const sandbox = env.name(`sandbox-${name}`);
    const uid = randomUUID();
    const ofPod = {
      ...annotations,
      [`${CRI}.sandbox-id`]: sandbox,
      [`${CRI}.sandbox-name`]: name,
      [`${CRI}.sandbox-namespace`]: POD_NAMESPACE,
      [`${CRI}.sandbox-uid`]: uid,
    };
    const labels = {
      'io.kubernetes.pod.namespace': POD_NAMESPACE,
      'io.kubernetes.pod.name': name,
      'io.kubernetes.pod.uid': uid,
    };
    const ofSandbox = [
      '--with-ns',
      `network:${network.path}`,
      ...pairs('--annotation', { ...ofPod, [`${CRI}.container-type`]: 'sandbox' }),
      ...pairs('--label', { ...labels, 'io.cri-containerd.kind': 'sandbox' }),
    ];
    await env.ctr('run', '-d', '--null-io', ...RUNTIME, ...ofSandbox, BUSYBOX, sandbox, '/bin/sleep', '3600');
    const pid = await env.initPid(sandbox);
    const shared = [`network:${network.path}`, `ipc:/proc/${pid}/ns/ipc`, `uts:/proc/${pid}/ns/uts`];
    const flags = [
      ...RUNTIME,
      ...shared.flatMap((namespace) => ['--with-ns', namespace]),
      ...pairs('--annotation', { ...ofPod, [`${CRI}.container-type`]: 'container', [`${CRI}.container-name`]: APP }),
      ...pairs('--label', {
        ...labels,
        'io.kubernetes.container.name': APP,
        'io.cri-containerd.kind': 'container',
      }),
    ];
    return { name, uid, flags };
  }

  /** From now on kubelet says that it gave the pod's container these GPUs. */
  async giveDevices(pod: string, deviceIds: readonly string[]): Promise<void> {
    const server = new Server();
    const { 'v1.PodResourcesLister': lister } = loadSync('pod-resources.proto', {
      includeDirs: [`${protoDirectory()}/kubelet`],
    });
    const devices = [{ resourceName: 'nvidia.com/gpu', deviceIds }];
    server.addService(lister as ServiceDefinition, {
      List: (_call: unknown, reply: sendUnaryData<object>) =>
        reply(null, {
          podResources: [{ name: pod, namespace: POD_NAMESPACE, containers: [{ name: APP, devices }] }],
        }),
    });
    this.forgetDevices();
    await new Promise<void>((resolve, reject) => {
      server.bindAsync(`unix:${this.#env.podResources}`, ServerCredentials.createInsecure(), (error) =>
        error === null ? resolve() : reject(error),
      );
    });
    this.#kubelet = server;
  }

  /** No kubelet runs on the node. */
  forgetDevices(): void {
    this.#kubelet?.forceShutdown();
    this.#kubelet = undefined;
    rmSync(this.#env.podResources, { force: true });
  }
}
