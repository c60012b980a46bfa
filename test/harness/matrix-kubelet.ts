/*
 * Pods of containerd's CRI plug-in in the support matrix, in both directions: its own archive is restored by us, and ours by
 * it, as far as there is a containerd that restores any.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type ImageName, importImages } from '../../cli/dev/images.ts';
import { type Env, packageDir, PROGRAMS } from '../../cli/setup/programs.ts';
import { messageOf } from '../../core/errors.ts';
import { connectContainerd } from '../../native/containerd/client.ts';
import type { Containerd } from '../../native/containerd/containerd.ts';
import { Cri, CRI_NAMESPACE } from './cri.ts';
import { PYTHON_IMAGE, REDIS_IMAGE } from './images.ts';
import { type Kind, RESTORING_CONTAINERD } from './matrix-data.ts';
import { type Platform, WORKLOADS_DIR } from './matrix.ts';
import { makeNetworkNamespace } from './network.ts';
import { fromLane } from './provided.ts';
import { runCliJson } from './run-cli.ts';
import type { Stack } from './stack.ts';

const IMAGES: readonly ImageName[] = [PYTHON_IMAGE, REDIS_IMAGE];

/** A containerd with its CRI plug-in, and a node worker for it. */
export interface Kubelet {
  readonly cri: Cri;
  readonly stack: Stack;
  readonly containerd: Containerd;
  /** path of a network namespace for what comes back beside all pods */
  readonly network: string;
  close(): Promise<void>;
}

/**
 * @param stack its node worker serves this containerd until `close`: a lane has one
 * @param restoring the older containerd, which restores archives
 */
export async function startKubelet(stack: Stack, restoring: boolean): Promise<Kubelet> {
  const { dir: lane, runDir } = fromLane('containerd');
  const dir = join(lane, restoring ? 'k2' : 'k1');
  mkdirSync(dir, { recursive: true });
  const older = join(packageDir({ ...PROGRAMS.containerd, version: RESTORING_CONTAINERD }, process.env), 'bin');
  const env: Env = { ...process.env, ...(restoring ? { PATH: `${older}:${process.env['PATH'] ?? ''}` } : {}) };
  const network = await makeNetworkNamespace(`kym${randomBytes(3).toString('hex')}`, 22);
  const settings = restoring ? { cri: { enable_experimental_restore_via_create: true } } : {};
  const cri = await Cri.start({ dir, runDir, images: IMAGES }, { env, ...settings });
  const { address } = cri.containerd;
  const before = stack.variables['KYBERNATE_CONTAINERD_ADDRESS'] ?? '';
  await serve(stack, address);
  await importImages(cri.containerd, stack.namespace, IMAGES, env);
  const containerd = connectContainerd(address);
  return {
    cri,
    stack,
    containerd,
    network: network.path,
    close: async () => {
      containerd.close();
      await serve(stack, before);
      await cri.close();
      await network.remove();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

async function serve(stack: Stack, address: string): Promise<void> {
  await stack.stopNodeWorker();
  stack.variables['KYBERNATE_CONTAINERD_ADDRESS'] = address;
  stack.variables['CONTAINERD_ADDRESS'] = address;
  await stack.startWorkers();
}

abstract class InPod implements Platform {
  protected readonly kubelet: Kubelet;
  protected readonly name: string;
  protected id = '';

  /** @param number of the cell */
  constructor(kubelet: Kubelet, number: number) {
    this.kubelet = kubelet;
    this.name = `m${number}`;
  }

  async pid(): Promise<number> {
    return this.id === '' ? 0 : this.kubelet.cri.pidOf(this.id);
  }

  async start(kind: Kind, command: readonly string[]): Promise<void> {
    const image = kind === 'redis' ? REDIS_IMAGE : PYTHON_IMAGE;
    this.id = await this.inNewPod(this.name, image, kind, command);
  }

  protected async inNewPod(name: string, image: string, kind: Kind, command: readonly string[] = []): Promise<string> {
    const pod = await this.kubelet.cri.runPod(name);
    return this.kubelet.cri.startContainer(pod, 'app', {
      image,
      command,
      tty: kind === 'tty',
      workloads: WORKLOADS_DIR,
    });
  }

  protected archive(): string {
    return join(this.kubelet.stack.dir, `${this.name}.tar`);
  }

  abstract checkpoint(kind: Kind): Promise<void>;
  abstract restore(kind: Kind): Promise<void>;

  async remove(): Promise<void> {
    await this.kubelet.cri.removeAll();
    rmSync(this.archive(), { force: true });
  }
}

/** What the shim's answer, `criu failed: type DUMP`, does not tell: runc gets no options from the CRI plug-in. */
const NOT_ASKED_FOR: Partial<Record<Kind, string>> = {
  tcp: "containerd's own checkpoint asks CRIU for no established TCP connections",
  deleted: "containerd's own checkpoint asks CRIU for no open files that have lost one of their names",
};

/** `CheckpointContainer` of the CRI, as the kubelet's checkpoint API calls it; imported and restored by us. */
export class FromKubelet extends InPod {
  #restored = false;

  override async pid(): Promise<number> {
    const { containerd, stack } = this.kubelet;
    return this.#restored ? ((await containerd.getTask(stack.namespace, this.name))?.pid ?? 0) : super.pid();
  }

  async checkpoint(kind: Kind): Promise<void> {
    try {
      await this.kubelet.cri.checkpoint(this.id, this.archive());
    } catch (error) {
      throw new Error(NOT_ASKED_FOR[kind] ?? messageOf(error), { cause: error });
    }
    await this.kubelet.cri.removeAll();
  }

  async restore(): Promise<void> {
    const { stack, network } = this.kubelet;
    const flags = ['--id', this.name, '--namespace', stack.namespace];
    await runCliJson(stack.variables, 'import', this.archive(), ...flags);
    await stack.restore(this.name, this.name, { networkNamespace: network });
    this.#restored = true;
  }

  override async remove(): Promise<void> {
    const { cri, stack } = this.kubelet;
    const ctr = (...args: string[]): Promise<unknown> => cri.containerd.ctr(['-n', stack.namespace, ...args]);
    await ctr('tasks', 'rm', '-f', this.name);
    await ctr('containers', 'rm', this.name);
    await super.remove();
  }
}

/** Our checkpoint and our export; `CreateContainer` and `StartContainer` of the CRI with the archive in place of an image. */
export class ToKubelet extends InPod {
  #checkpointId = '';

  async checkpoint(): Promise<void> {
    const { stack, cri } = this.kubelet;
    const container = { id: this.id, namespace: CRI_NAMESPACE };
    this.#checkpointId = (await stack.checkpoint(this.id, { container, after: 'stop' })).checkpointId;
    await cri.removeAll();
  }

  async restore(kind: Kind): Promise<void> {
    const { stack, cri } = this.kubelet;
    // Imported and not pulled, the image has no digest of a registry to be known by.
    const imageId = await cri.imageId(kind === 'redis' ? REDIS_IMAGE : PYTHON_IMAGE);
    const flags = ['--format', 'cri', '--image-id', imageId.replace('sha256:', ''), '-o', this.archive()];
    await runCliJson(stack.variables, 'export', this.#checkpointId, ...flags);
    this.id = await this.inNewPod(`${this.name}r`, this.archive(), kind);
  }
}
