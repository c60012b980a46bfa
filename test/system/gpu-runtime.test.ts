/*
 * `checkpoint` as containerd's own clients ask for it, of containers with GPU processes under our runtime: through real
 * containerd, shim, wrapper, agent, runner, runc and CRIU; the driver is the fake one, with the ABI of the real one.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { openContainerd } from '../../cli/dev/containerd-client.ts';
import { shimDirOf } from '../../cli/dev/shim.ts';
import type { RunResult } from '../../native/run/run.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { FakeGpu, fakeDevice, whyNoFakes } from '../harness/fake-gpu.ts';
import { GpuContainers, MIB } from '../harness/gpu-checkpoint.ts';
import { RUNTIME, from } from '../harness/shim-node.ts';
import { BUSYBOX, PYTHON, Stack, until } from '../harness/stack.ts';
import { workload } from '../harness/workloads.ts';
import { fromLane } from '../harness/provided.ts';

const reason = whyNoFakes();
/** Stand for devices of the driver: they can be opened and mapped on every machine. */
const NODES = ['/dev/nvidiactl', '/dev/nvidia0'];
const NODE = NODES.flatMap((node) => ['--mount', `type=bind,src=/dev/zero,dst=${node},options=rbind:rw`]);

describe.skipIf(reason !== undefined)(`runc checkpoint${reason === undefined ? '' : ` (${reason})`}`, () => {
  let fake: FakeGpu;
  let stack: Stack;
  let gpu: GpuContainers;
  let roots: string;
  let serial = 0;
  const made: string[] = [];

  beforeAll(async () => {
    fake = FakeGpu.open([fakeDevice(0)]);
    roots = join(fromLane('containerd').dir, 'gpu-images');
    mkdirSync(roots, { mode: 0o700 });
    stack = await Stack.open({ withSidecar: false, env: { ...fake.environment, KYBERNATE_RESTORE_ROOTS: roots } });
    gpu = new GpuContainers(stack, fake);
  });

  afterEach(async () => {
    fake.setRules([]);
    // One GPU: those of others on it would be a reason to refuse.
    await Promise.all(made.splice(0).map((id) => stack.removeContainer(id)));
    fake.clearCalls();
  });

  afterAll(async () => {
    gpu.close();
    await stack.close();
    fake.close();
  });

  function name(): string {
    serial += 1;
    made.push(`rt${serial}`);
    return `rt${serial}`;
  }

  /** A container with one GPU process, under our runtime. By default it has device files open. */
  async function start(nodes = true, more: readonly string[] = NODE): Promise<string> {
    const id = name();
    const held = nodes ? ` --nodes ${NODES.join(',')}` : '';
    const script = `exec /usr/bin/python3 /w/fake-gpu.py ${id} --devices ${fakeDevice(0).uuid} --vram ${64 * MIB}${held}`;
    await stack.runContainer(id, PYTHON, ['/bin/sh', '-c', script], [...RUNTIME, ...workload(), ...more]);
    await gpu.state(id, id);
    fake.writeVram(id, await gpu.hostPid(id, id), `vram of ${id}`);
    return id;
  }

  const places = (id: string): { images: string; work: string } => ({
    images: join(roots, id, 'images'),
    work: join(roots, id, 'work'),
  });

  function ctr(...args: string[]): Promise<RunResult> {
    return openContainerd(fromLane('containerd').dir, process.env).ctr(['-n', stack.namespace, ...args], 60_000);
  }

  async function checkpoint(id: string, ...flags: string[]): Promise<RunResult> {
    const { images, work } = places(id);
    mkdirSync(work, { recursive: true });
    return ctr('tasks', 'checkpoint', '--image-path', images, '--work-path', work, ...flags, id);
  }

  const runtimeDir = (): string => join(shimDirOf(fromLane('containerd').dir), 'kybernate-runtime');

  /** As the shim calls it, but without its lock and without the pause around it. */
  const direct = (id: string): [string, string[]] => [
    join(runtimeDir(), 'runc'),
    [
      '--root',
      `/run/containerd/runc/${stack.namespace}`,
      'checkpoint',
      '--leave-running',
      '--image-path',
      places(id).images,
      '--work-path',
      places(id).work,
      id,
    ],
  ];

  /** Nothing of the operation is left but what was asked for. */
  async function runsAsBefore(id: string): Promise<void> {
    await until('the operation to be over', () => stack.operations().length === 0, 40_000);
    expect(stack.freezerOf(id)).toBe('THAWED');
    const hostPid = await gpu.hostPid(id, id);
    // undefined: the driver was never asked to do anything to it
    expect(['running', undefined]).toContain(fake.state(hostPid));
    expect(fake.readVram(id, hostPid)).toBe(`vram of ${id}`);
    await gpu.counts(id, id);
    expect(existsSync(`/run/containerd/runc/${stack.namespace}/${id}/kybernate-checkpoint`)).toBe(false);
    const { images } = places(id);
    expect(existsSync(images) ? readdirSync(images).filter((file) => file.startsWith('.kyb')) : []).toEqual([]);
  }

  it('saves the GPU before the dump and brings it back after the thaw, never while the container is paused', async () => {
    const id = await start();
    const hostPid = await gpu.hostPid(id, id);
    fake.clearCalls();

    const result = await checkpoint(id);

    expect(result.stderr).toBe('');
    expect(fake.done()).toEqual(['Lock', 'Checkpoint', 'Restore', 'Unlock'].map((call) => `${call} ${hostPid}`));
    expect(fake.calls().filter((call) => call.what === 'frozen')).toEqual([]);
    await runsAsBefore(id);
    expect((await stack.ctr('tasks', 'ls')).split('\n').find((line) => line.startsWith(id))).toContain('RUNNING');
    const { images, work } = places(id);
    expect(readdirSync(images)).toEqual(expect.arrayContaining(['inventory.img', 'descriptors.json', 'core-1.img']));
    expect(readFileSync(join(work, 'dump.log'), 'utf8')).toContain('Dumping finished successfully');
  });

  it('of images that a restore continues from, by the path, VRAM included', async () => {
    // Files of the root are not in the images; the driver's library is what the process is known by.
    const library = `type=bind,src=${fake.cudaLibrary},dst=/l/libcuda.so.1,options=rbind:ro`;
    const mounts = ['--mount', 'type=tmpfs,src=tmpfs,dst=/tmp', '--mount', library];
    const id = await start(false, [...mounts, '--env', 'LD_PRELOAD=/l/libcuda.so.1']);
    const { count, memory } = await gpu.state(id, id);
    expect((await checkpoint(id)).stderr).toBe('');
    await stack.removeContainer(id);
    const back = name();

    const flags = [...RUNTIME, ...workload(), ...mounts, ...from(places(id).images, 'unverified=true')];
    await stack.runContainer(back, PYTHON, ['/bin/false'], flags);

    await until('the process to count on', async () => (await gpu.state(back, id)).count > count);
    expect((await gpu.state(back, id)).memory).toBe(memory);
    const hostPid = await gpu.hostPid(back, id);
    expect(fake.state(hostPid)).toBe('running');
    expect(fake.readVram(id, hostPid)).toBe(`vram of ${id}`);
  });

  it('ends the container where it is not to be left running', async () => {
    const id = await start();
    const hostPid = await gpu.hostPid(id, id);
    fake.clearCalls();

    expect((await checkpoint(id, '--exit')).stderr).toBe('');

    expect(fake.done()).toEqual([`Lock ${hostPid}`, `Checkpoint ${hostPid}`]);
    await until('the task to end', async () => (await ctr('tasks', 'ls')).stdout.includes('STOPPED'));
    expect(readdirSync(places(id).images)).toContain('inventory.img');
    expect(stack.operations()).toEqual([]);
    await stack.removeContainer(id);
    expect(existsSync(`/run/containerd/runc/${stack.namespace}/${id}`)).toBe(false);
  });

  it('leaves a container that somebody else had paused paused', async () => {
    const id = await start();
    await stack.ctr('tasks', 'pause', id);
    mkdirSync(places(id).work, { recursive: true });
    fake.clearCalls();

    const result = await runExeca(...direct(id));

    expect(result).toMatchObject({ exitCode: 0, stderr: '' });
    expect(fake.done()).toHaveLength(4);
    expect(stack.freezerOf(id)).toBe('FROZEN');
    await stack.ctr('tasks', 'resume', id);
    await runsAsBefore(id);
  });

  it('leaves one that was paused paused when the save fails, too', async () => {
    const id = await start();
    await stack.ctr('tasks', 'pause', id);
    fake.setRules([{ call: 'Checkpoint', action: 'error=801' }]);

    const result = await runExeca(...direct(id));

    expect(result.exitCode).toBe(1);
    expect(result.stderr).toMatch(new RegExp(`^kybernate: container ${id}: .*801[^\n]*\n$`));
    expect(stack.freezerOf(id)).toBe('FROZEN');
    await stack.ctr('tasks', 'resume', id);
    await runsAsBefore(id);
  });

  it('says why it failed through containerd, and the container runs', async () => {
    const id = await start();
    fake.setRules([{ call: 'Lock', action: 'error=999' }]);

    const result = await checkpoint(id);

    expect(result.exitCode).not.toBe(0);
    expect(result.stderr).toMatch(/kybernate: container rt\d+: .*999/);
    await runsAsBefore(id);
  });

  it('is undone when its caller goes away in the middle', async () => {
    const id = await start();
    fake.setRules([{ call: 'Checkpoint', action: 'slow=3000' }]);
    const [file, args] = direct(id);
    const caller = spawn(file, args, { stdio: 'ignore' });
    await until('the save to begin', () =>
      fake.calls().some(({ call, what }) => call === 'Checkpoint' && what === 'begin'),
    );

    caller.kill('SIGKILL');

    await runsAsBefore(id);
    expect(existsSync(join(places(id).images, 'inventory.img'))).toBe(false);
  });

  it('is undone by the next worker when the worker is killed in the middle, and the pause of its caller ends', async () => {
    const id = await start();
    fake.setRules([{ call: 'Checkpoint', action: 'slow=3000' }]);
    const asked = checkpoint(id);
    await until('the save to begin', () =>
      fake.calls().some(({ call, what }) => call === 'Checkpoint' && what === 'begin'),
    );

    await stack.killNodeWorker();

    expect((await asked).stderr).toMatch(/only the node worker can checkpoint it/);
    await stack.startWorkers();
    await runsAsBefore(id);
    expect((await checkpoint(id)).stderr).toBe('');
    await runsAsBefore(id);
  });

  it('is refused without a node worker: half a dump would lose the job', async () => {
    const id = await start();
    await stack.stopNodeWorker();
    try {
      const result = await checkpoint(id);

      expect(result.stderr).toMatch(/agent.*does not answer.*it uses a GPU, so only the node worker can checkpoint it/);
      expect(existsSync(join(places(id).images, 'inventory.img'))).toBe(false);
      await gpu.counts(id, id);
    } finally {
      await stack.startWorkers();
    }
  });

  it('of a container that may use a GPU and does not is left to runc', async () => {
    const id = name();
    await stack.runContainer(id, BUSYBOX, ['sleep', '600'], [...RUNTIME, ...NODE]);
    fake.clearCalls();

    expect((await checkpoint(id)).stderr).toBe('');

    expect(readdirSync(places(id).images)).toContain('inventory.img');
    expect(fake.done()).toEqual([]);
    expect(stack.freezerOf(id)).toBe('THAWED');
  });

  it('of a container that cannot use a GPU starts no Node', async () => {
    const id = name();
    await stack.runContainer(id, BUSYBOX, ['sleep', '600'], RUNTIME);
    const conf = join(runtimeDir(), 'kybernate-shim.conf');
    const text = readFileSync(conf, 'utf8');
    writeFileSync(conf, text.replace(/^node=.*$/m, 'node=/bin/false'));
    try {
      expect((await checkpoint(id)).stderr).toBe('');
    } finally {
      writeFileSync(conf, text);
    }

    expect(readdirSync(places(id).images)).toContain('inventory.img');
  });
});
