/*
 * A private containerd with its CRI plug-in, driven as a kubelet does it: pods with a network of their own, containers in
 * them, and the calls of the kubelet's checkpoint API.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Client, credentials } from '@grpc/grpc-js';
import { loadSync, type MethodDefinition } from '@grpc/proto-loader';
import { type CriSettings, PAUSE_IMAGE, startContainerd, stopContainerd } from '../../cli/dev/containerd.ts';
import type { Containerd } from '../../cli/dev/containerd-client.ts';
import { type ImageName, importImages } from '../../cli/dev/images.ts';
import { waitFor } from '../../cli/dev/wait.ts';
import { type Env, requireProgram } from '../../cli/setup/programs.ts';
import { messageOf } from '../../core/errors.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { until } from './stack.ts';

/** Where Kubernetes' containers are. */
export const CRI_NAMESPACE = 'k8s.io';
const SERVICES = ['runtime.v1.RuntimeService', 'runtime.v1.ImageService'];
/** What the kubelet asks for where a pod does not say otherwise. */
const NAMESPACES = { namespaceOptions: { network: 'POD', pid: 'CONTAINER', ipc: 'POD' } };

export interface Pod {
  readonly id: string;
  readonly config: object;
  readonly labels: Readonly<Record<string, string>>;
}

export interface PodContainer {
  /** of an image, or path of a checkpoint archive where containerd restores such */
  readonly image: string;
  readonly command?: readonly string[];
  readonly tty?: boolean;
  /** host directory, mounted read-only at /w */
  readonly workloads?: string;
  /** path in the container to directory of the host, for writing: an emptyDir */
  readonly volumes?: Readonly<Record<string, string>>;
}

export class Cri {
  readonly containerd: Containerd;
  readonly #bridge: string;
  readonly #env: Env;
  readonly #client: Client;
  readonly #pods = new Set<string>();
  readonly #containers = new Set<string>();

  private constructor(containerd: Containerd, bridge: string, env: Env) {
    this.containerd = containerd;
    this.#bridge = bridge;
    this.#env = env;
    this.#client = new Client(`unix:${containerd.address}`, credentials.createInsecure());
  }

  /**
   * @param dir of the test, short: sockets lie below it
   * @param runDir of the node worker that serves its containers
   * @param images of its containers
   * @param options another containerd by its PATH, or other settings of the plug-in
   */
  static async start(
    { dir, runDir, images }: { dir: string; runDir: string; images: readonly ImageName[] },
    options: { env?: Env; cri?: CriSettings } = {},
  ): Promise<Cri> {
    const { env = process.env, cri = {} } = options;
    const bridge = `kyc${randomBytes(4).toString('hex')}`;
    writeNetwork(dir, bridge, env);
    const containerd = await startContainerd({ dir, env, runDir, cri });
    const started = new Cri(containerd, bridge, env);
    const all: readonly ImageName[] = [PAUSE_IMAGE, ...images];
    await importImages(containerd, CRI_NAMESPACE, all, env);
    // The plug-in hears of them by events.
    for (const image of all) {
      await until(`the CRI plug-in to know ${image}`, async () => (await started.imageId(image)) !== '');
    }
    return started;
  }

  /** @throws Error of gRPC with containerd's words */
  #call<Response>(name: string, request: object): Promise<Response> {
    const { path, requestSerialize, responseDeserialize } = methodOf(name);
    return new Promise((resolve, reject) => {
      const deadline = { deadline: Date.now() + 60_000 };
      this.#client.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        request,
        deadline,
        (error, response) => (error === null ? resolve(response as Response) : reject(error)),
      );
    });
  }

  /** `sha256:<digest of its configuration>`, the name that the plug-in gives it; empty when it does not know it. */
  async imageId(image: string): Promise<string> {
    const status = await this.#call<{ image: { id: string } | null }>('ImageStatus', { image: { image } });
    return status.image?.id ?? '';
  }

  /** @param handler runtime of its containers: `runc`, `kybernate` */
  async runPod(name: string, handler = 'runc'): Promise<Pod> {
    const uid = `${name}-uid`;
    const labels = {
      'io.kubernetes.pod.name': name,
      'io.kubernetes.pod.namespace': 'shop',
      'io.kubernetes.pod.uid': uid,
    };
    const logDirectory = join(this.containerd.dir, 'pods', name);
    mkdirSync(logDirectory, { recursive: true });
    const config = {
      metadata: { name, uid, namespace: 'shop' },
      hostname: name,
      logDirectory,
      labels,
      linux: { securityContext: NAMESPACES },
    };
    const request = { config, runtimeHandler: handler };
    const { podSandboxId } = await this.#call<{ podSandboxId: string }>('RunPodSandbox', request);
    this.#pods.add(podSandboxId);
    return { id: podSandboxId, config, labels };
  }

  /** @returns its id, which is that of containerd, too */
  async startContainer(
    pod: Pod,
    name: string,
    { image, command, tty, workloads, volumes = {} }: PodContainer,
  ): Promise<string> {
    const config = {
      metadata: { name },
      image: { image },
      command,
      tty,
      labels: { ...pod.labels, 'io.kubernetes.container.name': name },
      logPath: `${name}.log`,
      mounts: [
        ...(workloads === undefined ? [] : [{ containerPath: '/w', hostPath: workloads, readonly: true }]),
        ...Object.entries(volumes).map(([containerPath, hostPath]) => ({ containerPath, hostPath })),
      ],
      linux: { securityContext: NAMESPACES },
    };
    const request = { podSandboxId: pod.id, config, sandboxConfig: pod.config };
    const { containerId } = await this.#call<{ containerId: string }>('CreateContainer', request);
    this.#containers.add(containerId);
    await this.#call('StartContainer', { containerId });
    return containerId;
  }

  /** Of its first process. */
  async pidOf(containerId: string): Promise<number> {
    const { info } = await this.#call<{ info: { info?: string } }>('ContainerStatus', { containerId, verbose: true });
    return (JSON.parse(info.info ?? '{}') as { pid?: number }).pid ?? 0;
  }

  async checkpoint(containerId: string, location: string): Promise<void> {
    await this.#call('CheckpointContainer', { containerId, location });
  }

  /** Again, as a kubelet does, where containerd has stopped it and has not heard of its end yet. */
  async removeContainer(containerId: string): Promise<void> {
    await waitFor(`end of container ${containerId}`, 20_000, async () => {
      await this.#call('StopContainer', { containerId });
      try {
        await this.#call('RemoveContainer', { containerId });
        return true;
      } catch (error) {
        if (!/container is still running/.test(messageOf(error))) {
          throw error;
        }
        return false;
      }
    });
    this.#containers.delete(containerId);
  }

  async #removePod(podSandboxId: string): Promise<void> {
    await this.#call('StopPodSandbox', { podSandboxId });
    await this.#call('RemovePodSandbox', { podSandboxId });
    this.#pods.delete(podSandboxId);
  }

  async removeAll(): Promise<void> {
    for (const id of this.#containers) {
      await this.removeContainer(id);
    }
    for (const id of this.#pods) {
      await this.#removePod(id);
    }
  }

  /** The directory stays. */
  async close(): Promise<void> {
    try {
      await this.removeAll();
    } finally {
      this.#client.close();
      await stopContainerd(this.containerd.dir, this.#env);
      await runExeca('ip', ['link', 'delete', this.#bridge]);
    }
  }
}

/** Pods are joined by a bridge that has no address of the host: nothing outside is reached, and no route is made. */
function writeNetwork(dir: string, bridge: string, env: Env): void {
  const [programs, settings] = [join(dir, 'cni/bin'), join(dir, 'cni/net.d')];
  mkdirSync(programs, { recursive: true });
  mkdirSync(settings, { recursive: true });
  for (const name of ['bridge', 'host-local', 'loopback'] as const) {
    symlinkSync(requireProgram(name, env), join(programs, name));
  }
  const ipam = { type: 'host-local', dataDir: join(dir, 'cni/data'), ranges: [[{ subnet: '10.234.0.0/24' }]] };
  const plugins = [{ type: 'bridge', bridge, ipam }];
  writeFileSync(join(settings, '10.conflist'), JSON.stringify({ cniVersion: '1.0.0', name: 'pods', plugins }));
}

type Methods = Readonly<Record<string, MethodDefinition<object, object>>>;

let methods: Methods | undefined;

function methodOf(name: string): MethodDefinition<object, object> {
  if (methods === undefined) {
    const file = join(import.meta.dirname, 'cri.proto');
    const definitions = loadSync(file, { longs: Number, enums: String, defaults: true });
    methods = Object.assign({}, ...SERVICES.map((service) => definitions[service])) as Methods;
  }
  const method = methods[name];
  if (method === undefined) {
    throw new Error(`cri.proto has no ${name}`);
  }
  return method;
}
