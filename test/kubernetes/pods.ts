/* Pods of a test: made, asked, waited for and removed. */
import { waitFor } from '../../cli/dev/wait.ts';
import { BUSYBOX_IMAGE } from '../harness/images.ts';
import type { Cluster } from './cluster.ts';

export interface PodStatus {
  readonly metadata: { readonly name: string; readonly uid: string; readonly deletionTimestamp?: string };
  readonly status: {
    readonly phase?: string;
    readonly podIP?: string;
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
    readonly containerStatuses?: readonly {
      readonly containerID?: string;
      readonly restartCount: number;
      readonly state?: {
        readonly running?: object;
        readonly waiting?: { readonly reason?: string; readonly message?: string };
        readonly terminated?: { readonly exitCode: number; readonly message?: string };
      };
    }[];
  };
}

export interface PodManifest {
  readonly metadata: { readonly name: string; readonly annotations?: Readonly<Record<string, string>> };
  readonly [field: string]: unknown;
}

/** A pod of one container `app` that runs a shell script. @param container more of its container, or other than that */
export function podManifest(
  name: string,
  script: string,
  container: object = {},
  options: { runtimeClass?: string; annotations?: Readonly<Record<string, string>>; nodeName?: string } = {},
): PodManifest {
  const { runtimeClass = 'kybernate', annotations = {}, nodeName } = options;
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, annotations },
    spec: {
      ...(runtimeClass === '' ? {} : { runtimeClassName: runtimeClass }),
      ...(nodeName === undefined ? {} : { nodeName }),
      restartPolicy: 'Never',
      terminationGracePeriodSeconds: 0,
      containers: [
        { name: 'app', image: BUSYBOX_IMAGE, imagePullPolicy: 'Never', command: ['sh', '-c', script], ...container },
      ],
    },
  };
}

export class Pods {
  readonly #cluster: Cluster;
  readonly #made: string[] = [];

  constructor(cluster: Cluster) {
    this.#cluster = cluster;
  }

  /** @returns its name */
  async run(manifest: PodManifest): Promise<string> {
    await this.#cluster.kubectl(['create', '-f', '-'], JSON.stringify(manifest));
    this.#made.push(manifest.metadata.name);
    return manifest.metadata.name;
  }

  async get(name: string): Promise<PodStatus> {
    return JSON.parse(await this.#cluster.kubectl(['get', 'pod', name, '-o', 'json'])) as PodStatus;
  }

  async until(probe: () => Promise<boolean>, timeoutMs = 60_000, what = 'change'): Promise<void> {
    await waitFor(what, timeoutMs, probe);
  }

  /** @throws with what kubectl describe says when it does not become ready */
  async untilReady(name: string, timeoutMs = 60_000): Promise<void> {
    try {
      await this.#cluster.kubectl(['wait', '--for=condition=Ready', `pod/${name}`, `--timeout=${timeoutMs}ms`]);
    } catch (error) {
      throw new Error(`${String(error)}\n${await this.#cluster.kubectl(['describe', 'pod', name])}`, { cause: error });
    }
  }

  /** @returns the exit code of its container */
  async untilTerminated(name: string): Promise<number> {
    return waitFor('end of the container', 60_000, async () => {
      const { status } = await this.get(name);
      const code = status.containerStatuses?.[0]?.state?.terminated?.exitCode;
      return code === undefined ? undefined : { code };
    }).then(({ code }) => code);
  }

  async exec(name: string, script: string): Promise<string> {
    return (await this.#cluster.kubectl(['exec', name, '-c', 'app', '--', 'sh', '-c', script])).trim();
  }

  /** Ids of its containers in containerd, without the sandbox. */
  async containerIds(name: string): Promise<string[]> {
    const { status } = await this.get(name);
    return (status.containerStatuses ?? []).flatMap(
      ({ containerID }) => containerID?.replace('containerd://', '') ?? [],
    );
  }

  async remove(name: string): Promise<void> {
    await this.#cluster.kubectl(['delete', 'pod', name, '--grace-period=1', '--ignore-not-found', '--timeout=60s']);
  }

  async removeAll(): Promise<void> {
    await Promise.all(this.#made.splice(0).map((name) => this.remove(name)));
  }
}
