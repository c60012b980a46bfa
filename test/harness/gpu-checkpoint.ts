/*
 * Containers with fake GPU processes, and checkpoints of them made without the engine: lock and save by the driver,
 * `runc checkpoint`, metadata by hand. The restore side is tested against them alone.
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { METADATA_FILE, OWN_FILES } from '../../core/checkpoint/file-names.ts';
import { encodeManifest } from '../../core/checkpoint/manifest.ts';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import type { NodeDeps } from '../../engine/node-deps.ts';
import { connectContainerd } from '../../native/containerd/client.ts';
import type { GpuDriver } from '../../native/cuda/gpu-driver.ts';
import { openGpuDriver } from '../../native/cuda/open.ts';
import { cgroupPids, freezerCgroup } from '../../native/proc/cgroup.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { readProcess } from '../../native/proc/tree.ts';
import { describeCheckpoint } from '../../store/describe.ts';
import { testOp } from './checkpoint-dir.ts';
import { type FakeGpu, fakeDevice } from './fake-gpu.ts';
import { checkpointByHand } from './hand-made.ts';
import { testDeps } from './node-deps.ts';
import { PYTHON, type Stack, until } from './stack.ts';
import { workload } from './workloads.ts';

export const MIB = 1024 ** 2;
const DEADLINE_MS = 10_000;

export interface WorkloadState {
  readonly pid: number;
  readonly count: number;
  readonly memory: string;
  readonly file: string;
}

export interface GpuWorkload {
  /** by which the driver knows its VRAM */
  readonly name: string;
  /** minors */
  readonly devices?: readonly number[];
  readonly vramBytes?: number;
}

export class GpuContainers {
  readonly stack: Stack;
  readonly fake: FakeGpu;
  readonly #deps: NodeDeps;
  #serial = 0;

  constructor(stack: Stack, fake: FakeGpu) {
    this.stack = stack;
    this.fake = fake;
    // The fake libraries of this process read it, too.
    process.env['KYBERNATE_FAKE_GPU'] = fake.dir;
    this.#deps = testDeps(connectContainerd(stack.variables['KYBERNATE_CONTAINERD_ADDRESS'] ?? ''));
  }

  close(): void {
    this.#deps.containerd.close();
  }

  get driver(): GpuDriver {
    const opened = openGpuDriver(this.fake);
    if (opened.driver === undefined) {
      throw new Error(opened.reason);
    }
    return opened.driver;
  }

  /** A container with these CUDA processes, each with a token in its VRAM: `vram of <name>`. */
  async start(id: string, workloads: readonly GpuWorkload[], flags: readonly string[] = []): Promise<void> {
    const commands = workloads.map(({ name, devices = [0], vramBytes = 64 * MIB }) => {
      const uuids = devices.map((minor) => fakeDevice(minor).uuid).join(',');
      return `/usr/bin/python3 /w/fake-gpu.py ${name} --devices ${uuids} --vram ${vramBytes}`;
    });
    const script = `${commands.map((command) => `${command} &`).join(' ')} wait`;
    await this.stack.runContainer(id, PYTHON, ['/bin/sh', '-c', script], [...workload(), ...flags]);
    for (const { name } of workloads) {
      await this.stack.readJson<WorkloadState>(id, `/tmp/state-${name}.json`);
      this.fake.writeVram(name, await this.hostPid(id, name), `vram of ${name}`);
    }
  }

  async state(id: string, name: string): Promise<WorkloadState> {
    return this.stack.readJson<WorkloadState>(id, `/tmp/state-${name}.json`);
  }

  /** Host pid of a workload. */
  async hostPid(id: string, name: string): Promise<number> {
    const { pid } = await this.state(id, name);
    const found = (await this.pids(id)).find((hostPid) => readProcess(hostPid)?.nsPid === pid);
    if (found === undefined) {
      throw new Error(`no process ${pid} (${name}) in ${id}`);
    }
    return found;
  }

  async pids(id: string): Promise<number[]> {
    const task = await this.#deps.containerd.getTask(this.stack.namespace, id);
    const cgroup = task === undefined ? undefined : freezerCgroup(task.pid);
    return cgroup === undefined ? [] : cgroupPids(cgroup.path);
  }

  /** Its tokens, wherever it runs now. */
  async tokens(id: string, name: string): Promise<{ memory: string; file: string; vram: string | undefined }> {
    const { memory, file } = await this.state(id, name);
    return { memory, file, vram: this.fake.readVram(name, await this.hostPid(id, name)) };
  }

  async counts(id: string, name: string): Promise<void> {
    const { count } = await this.state(id, name);
    await until(`${name} to count on`, async () => (await this.state(id, name)).count > count);
  }

  /** Saves, dumps and removes the container. @returns the checkpoint's id */
  async checkpointAndRemove(
    id: string,
    workloads: readonly GpuWorkload[],
    more: Partial<Metadata> = {},
    as: { readonly criuConfig?: string; readonly driver?: string } = {},
  ): Promise<string> {
    this.#serial += 1;
    const checkpointId = `gpu-${process.pid}-${this.#serial}`;
    const gpuProcesses = await Promise.all(
      workloads.map(async ({ name, devices = [0], vramBytes = 64 * MIB }) => {
        const hostPid = await this.hostPid(id, name);
        const uuids = devices.map((minor) => fakeDevice(minor).uuid);
        const { pid: nsPid } = await this.state(id, name);
        return { hostPid, nsPid, vramBytes: vramBytes * devices.length, devices: uuids, visible: uuids };
      }),
    );
    const before = this.driver.devices();
    const used = this.driver.memoryInUse();
    for (const { hostPid } of gpuProcesses) {
      await this.driver.lock(hostPid, DEADLINE_MS, DEADLINE_MS);
      await this.driver.checkpoint(hostPid, DEADLINE_MS);
    }
    const visible = new Set(gpuProcesses.flatMap((process) => process.visible));
    const { stateDir, namespace } = this.stack;
    const input = { deps: this.#deps, namespace, container: id, stateDir, checkpointId };
    const dir = await checkpointByHand({
      ...input,
      ...(as.criuConfig === undefined ? {} : { criuConfig: as.criuConfig }),
      metadata: {
        gpuProcesses,
        gpu: {
          driver: as.driver ?? this.driver.version,
          devices: before
            .filter(({ uuid }) => visible.has(uuid))
            .map(({ memoryFreeBytes: _free, mig: _mig, index: _index, ...device }) => ({
              ...device,
              usedBytes: used
                .filter(
                  (use) => use.uuid === device.uuid && gpuProcesses.some(({ hostPid }) => hostPid === use.hostPid),
                )
                .reduce((sum, use) => sum + use.usedBytes, 0),
            })),
        },
        ...more,
      },
    });
    await commit(dir);
    await this.stack.removeContainer(id);
    return checkpointId;
  }
}

/**
 * What a hook of the runtime does: a file of the node appears in a container, and no specification knows of it. By
 * open_tree, setns and move_mount (428, 308, 429): mount(8) of Debian 12 cannot cross namespaces.
 */
export async function mountInto(hostPid: number, source: string, destination: string): Promise<void> {
  const script = `
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def must(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "syscall")
    return result
pid, source, destination = sys.argv[1:]
tree = must(libc.syscall(428, -100, source.encode(), 1 | 0o2000000))
must(libc.setns(os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY), 0x20000))
os.chroot(".")
must(libc.syscall(429, tree, b"", -100, destination.encode(), 4))
`;
  const result = await runExeca('python3', ['-c', script, String(hostPid), source, destination]);
  if (result.exitCode !== 0) {
    throw new Error(result.stderr);
  }
}

/** As the node's commit does: the manifest fixes every byte. */
async function commit(dir: string): Promise<void> {
  rmSync(join(dir, 'work'), { recursive: true });
  const manifest = await describeCheckpoint(dir, testOp());
  writeFileSync(join(dir, OWN_FILES.manifest), encodeManifest(manifest));
  const file = join(dir, METADATA_FILE);
  const metadata = JSON.parse(readFileSync(file, 'utf8')) as Metadata;
  const sizes = { totalBytes: manifest.totalBytes, imageBytes: manifest.totalBytes, rootfsBytes: 0 };
  writeFileSync(file, JSON.stringify({ ...metadata, sizes, merkleRoot: manifest.merkleRoot }));
}
