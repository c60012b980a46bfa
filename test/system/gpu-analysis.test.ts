/*
 * What a plan finds out about GPU processes, and what surrounds their save, in real containers. The driver is the fake
 * one (native/fake); the devices are nodes of others under its names: /dev/zero, which can be mapped, and /dev/fuse,
 * which CRIU does not dump.
 */
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { openContainerd } from '../../cli/dev/containerd-client.ts';
import { gpuOptions, workloadHook } from '../../core/contract/gpu.ts';
import { SAVE_OVERHEAD_BYTES } from '../../core/gpu/process-state.ts';
import { analyzeContainer } from '../../engine/analysis.ts';
import type { ContainerFacts } from '../../engine/container-facts.ts';
import { analyzeGpu, type GpuFindings, type GpuRequest } from '../../engine/gpu/analysis.ts';
import type { GpuPlan } from '../../engine/gpu/gpu-plan.ts';
import { runHook } from '../../engine/gpu/hooks.ts';
import { childrenNow } from '../../engine/gpu/latecomers.ts';
import { putBackMemory, raiseMemory } from '../../engine/gpu/memory-room.ts';
import { deviceHoldings, scrubChildren } from '../../engine/gpu/scrub.ts';
import { inspectContainer } from '../../engine/inspect.ts';
import type { NodeDeps } from '../../engine/node-deps.ts';
import { planCheckpoint } from '../../engine/plan.ts';
import { connectContainerd } from '../../native/containerd/client.ts';
import { openGpuDriver } from '../../native/cuda/open.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { FakeGpu, fakeDevice, whyNoFakes } from '../harness/fake-gpu.ts';
import { testDeps, testOp } from '../harness/node-deps.ts';
import { BUSYBOX, PYTHON, until } from '../harness/stack.ts';
import { workload } from '../harness/workloads.ts';
import { fromLane } from '../harness/provided.ts';

const RUNC = { engine: 'runc', tcp: 'keep', after: 'resume' } as const;
const MIB = 1024 ** 2;
const [FIRST, SECOND] = [fakeDevice(0), fakeDevice(1)];
const NODES = '/dev/nvidia0,/dev/nvidiactl';
const DEADLINE_MS = 10_000;
const reason = whyNoFakes();

describe.skipIf(reason !== undefined)(`GPU processes${reason === undefined ? '' : ` (${reason})`}`, () => {
  let fake: FakeGpu;
  let deps: NodeDeps;
  let namespace: string;
  let dir: string;
  const running: string[] = [];

  beforeAll(() => {
    fake = FakeGpu.open([FIRST, SECOND]);
    // The fake libraries of this process read it.
    process.env['KYBERNATE_FAKE_GPU'] = fake.dir;
    const provided = fromLane('containerd');
    namespace = provided.namespace;
    dir = mkdtempSync(join(provided.dir, 'gpu-'));
    const { settings, ...rest } = testDeps(connectContainerd(provided.address));
    const libraries = { cudaLibrary: fake.cudaLibrary, nvmlLibrary: fake.nvmlLibrary };
    deps = {
      ...rest,
      gpu: () => openGpuDriver(libraries),
      settings: { ...settings, ...libraries, stateDir: dir, runDir: join(dir, 'run') },
    };
  });
  afterEach(async () => {
    fake.setRules([]);
    for (const id of running.splice(0)) {
      await ctr('tasks', 'kill', '-s', '9', '-a', id).catch(() => undefined);
      await until(`the end of ${id}`, async () => {
        const task = await deps.containerd.getTask(namespace, id);
        return task === undefined || task.status === 'stopped';
      });
      await ctr('tasks', 'rm', id).catch(() => undefined);
      await ctr('containers', 'rm', id);
    }
  });
  afterAll(() => {
    deps.containerd.close();
    fake.close();
    rmSync(dir, { recursive: true });
  });

  function ctr(...args: string[]): Promise<string> {
    return openContainerd(fromLane('containerd').dir, process.env).ctrOk(['-n', namespace, ...args]);
  }

  async function must(program: string, ...args: string[]): Promise<void> {
    const result = await runExeca(program, args);
    if (result.exitCode !== 0) {
      throw new Error(`${program} ${args.join(' ')}: ${result.startError ?? result.stderr}`);
    }
  }

  async function start(id: string, script: string, flags: readonly string[] = [], image = PYTHON): Promise<number> {
    running.push(id);
    const flagged = ['--null-io', ...workload(), ...flags];
    await ctr('run', '-d', ...flagged, image, id, '/bin/sh', '-c', script);
    return (await deps.containerd.getTask(namespace, id))?.pid ?? 0;
  }

  const program = (name: string, ...args: string[]): string =>
    `/usr/bin/python3 /w/fake-gpu.py ${name} ${args.join(' ')}`;
  const on = (...devices: { readonly uuid: string }[]): string[] => [
    '--devices',
    devices.map(({ uuid }) => uuid).join(','),
    '--vram',
    String(64 * MIB),
  ];

  async function started(initHostPid: number, ...names: string[]): Promise<void> {
    for (const name of names) {
      const state = `/proc/${initHostPid}/root/tmp/state-${name}.json`;
      await until(name, () => statSync(state, { throwIfNoEntry: false }) !== undefined);
    }
  }

  /** A container whose programs find the device nodes. */
  async function withNodes(id: string, command: string, flags: readonly string[] = []): Promise<number> {
    const wait = 'while [ ! -e /dev/nvidiactl ]; do sleep 0.05; done;';
    const initHostPid = await start(id, `${wait} ${command}`, ['--device', '/dev/fuse', ...flags]);
    const inside = ['-t', String(initHostPid), '-m', '--'];
    await must('nsenter', ...inside, 'mknod', '/dev/nvidia0', 'c', '1', '5');
    await must('nsenter', ...inside, 'mknod', '/dev/nvidiactl', 'c', '10', '229');
    return initHostPid;
  }

  async function inspect(id: string): Promise<ContainerFacts> {
    return inspectContainer(deps, { namespace, id });
  }

  async function analyze(
    facts: ContainerFacts,
    options: Partial<GpuRequest['options']> = {},
    more: Partial<GpuRequest> = {},
  ): Promise<GpuFindings> {
    const { gpuHolders } = await analyzeContainer(deps, facts, RUNC);
    return analyzeGpu(deps, facts, gpuHolders, {
      operationId: '0'.repeat(32),
      options: { ...gpuOptions.parse({}), ...options },
      freezeBudgetMs: 60_000,
      rehearsal: false,
      ...more,
    });
  }

  function planOf(facts: ContainerFacts, gpu: GpuPlan): Parameters<typeof scrubChildren>[0] {
    return { container: facts.ref, gpu };
  }

  test('every CUDA process is found with its memory and its devices, others are left out', async () => {
    const init = await start('found', `${program('a', ...on(FIRST))} & ${program('b', ...on(SECOND))} & sleep 1000`);
    await started(init, 'a', 'b');

    const { plan, ...rest } = await analyze(await inspect('found'));

    expect(rest).toEqual({ unsupported: [], refusals: [], warnings: [] });
    expect(plan).toMatchObject({
      vramBytes: 128 * MIB,
      reservedMemoryBytes: 2 * (64 * MIB + SAVE_OVERHEAD_BYTES),
      children: [],
      memoryRaises: [],
    });
    expect(plan.processes.map(({ devices, visible, vramBytes }) => [devices, visible, vramBytes])).toEqual([
      [[FIRST.uuid], [FIRST.uuid], 64 * MIB],
      [[SECOND.uuid], [SECOND.uuid], 64 * MIB],
    ]);
    expect(plan.devices.map(({ uuid, usedBytes }) => [uuid, usedBytes])).toEqual([
      [FIRST.uuid, 64 * MIB],
      [SECOND.uuid, 64 * MIB],
    ]);
    expect(plan.driver).toMatch(/^\d+\.\d+/);
  });

  test("the engine that cannot switch off CRIU's own GPU plugin is refused", async () => {
    await withNodes('plugin', 'exec 3</dev/nvidia0; sleep 1000');
    const facts = await inspect('plugin');

    await until('the device to be open', async () => (await analyzeContainer(deps, facts, RUNC)).gpuHolders.length > 0);
    const { refusals } = await analyzeContainer(deps, facts, { ...RUNC, engine: 'containerd' });

    expect(refusals).toContainEqual(expect.stringMatching(/cuda plugin.*engine "runc"/));
  });

  test('a container without GPU processes has an empty plan', async () => {
    await start('none', 'sleep 1000', [], BUSYBOX);

    const { plan, refusals, unsupported } = await analyze(await inspect('none'));

    expect(plan.processes).toEqual([]);
    expect([...refusals, ...unsupported]).toEqual([]);
  });

  test('the analysis of a warm worker takes no more than 20 ms of processor time', async () => {
    const init = await start('warm', `${program('a', ...on(FIRST))} & sleep 1000`);
    await started(init, 'a');
    const facts = await inspect('warm');
    await analyze(facts);
    const times: number[] = [];
    for (let round = 0; round < 10; round += 1) {
      const begun = process.cpuUsage();
      await analyzeGpu(deps, facts, [], {
        operationId: '0'.repeat(32),
        options: gpuOptions.parse({}),
        freezeBudgetMs: 60_000,
        rehearsal: false,
      });
      const { user, system } = process.cpuUsage(begun);
      times.push((user + system) / 1000);
    }

    // the shortest: other programs of the machine have no part in it
    expect(Math.min(...times)).toBeLessThan(20);
  });

  test('a neighbour outside of the container refuses the checkpoint, unless it is allowed', async () => {
    const neighbour = await fake.startProcess(`outside-${process.pid}`, '--vram', String(16 * MIB));
    const init = await start('shared', program('a', ...on(FIRST)));
    await started(init, 'a');
    const facts = await inspect('shared');

    const refused = await analyze(facts);
    const allowed = await analyze(facts, { allowShared: true });
    process.kill(neighbour, 'SIGKILL');

    expect(refused.refusals).toEqual([expect.stringMatching(`also used by process ${neighbour} \\(python3\\)`)]);
    expect(allowed.refusals).toEqual([]);
    expect(allowed.warnings).toEqual([expect.stringMatching(/may take the memory/)]);
  });

  test.each([
    ['that hangs is not waited for', 'hang', /does not tell the state of process \d+ \(python3\).*2000 ms/],
    ['that fails is believed for a process with devices alone', 'error=999', /does not tell the state.*999/],
  ])('a driver %s', async (_title, action, expected) => {
    const init = await withNodes('hanging', `exec ${program('a', ...on(FIRST), '--nodes', NODES)}`);
    await started(init, 'a');
    const facts = await inspect('hanging');
    fake.setRules([{ call: 'GetState', pid: init, action }]);

    const { unsupported } = await analyze(facts);
    fake.release();

    expect(unsupported).toEqual([expect.stringMatching(expected)]);
  });

  test('a monitor that keeps a device open has to be ended first', async () => {
    const monitor = 'exec 7<>/dev/nvidia0; sleep 1000';
    const init = await withNodes('monitor', `${program('a', ...on(FIRST))} & sh -c '${monitor}' & wait`);
    await started(init, 'a');
    await until('the monitor', async () => (await analyze(await inspect('monitor'))).unsupported.length > 0);

    const { unsupported } = await analyze(await inspect('monitor'));

    expect(unsupported.every((text) => /process \d+ \((?:sh|sleep)\).*nvidia-smi.*end it first/.test(text))).toBe(true);
  });

  test('a node without a driver refuses a container that has its devices open, with the reason', async () => {
    const init = await withNodes('driverless', program('a', ...on(FIRST), '--nodes', NODES));
    await started(init, 'a');
    const { settings } = deps;
    const without: NodeDeps = {
      ...deps,
      gpu: () => ({ reason: 'libcuda.so.1 cannot be loaded' }),
      settings: { ...settings, cudaLibrary: 'libcuda.so.1' },
    };
    const context = { checkpointId: 'ck-driverless', container: { namespace, id: 'driverless' }, token: 1 };
    const request = { context, engine: 'runc', tcp: 'keep', after: 'resume', gpu: gpuOptions.parse({}) } as const;

    const attempt = planCheckpoint(without, testOp(), {
      ...request,
      operationId: '1'.repeat(32),
      workflow: { workflowId: 'w', runId: 'r' },
      freezeBudgetMs: 60_000,
      holdBudgetMs: 60_000,
    });

    await expect(attempt).rejects.toMatchObject({ type: 'GpuUnsupported' });
    await expect(attempt).rejects.toThrow(/uses an NVIDIA GPU \(process \d+ \(python3\)\), and libcuda.so.1 cannot be/);
  });

  test('a plan counts the GPU memory on the disk and refuses a budget that is too small for the way back', async () => {
    const init = await start('planned', program('a', ...on(FIRST)));
    await started(init, 'a');
    const context = { checkpointId: 'ck-planned', container: { namespace, id: 'planned' }, token: 1 };
    const request = {
      context,
      engine: 'runc',
      tcp: 'keep',
      after: 'resume',
      gpu: gpuOptions.parse({}),
      operationId: '2'.repeat(32),
      workflow: { workflowId: 'w', runId: 'r' },
      holdBudgetMs: 60_000,
    } as const;

    await expect(planCheckpoint(deps, testOp(), { ...request, freezeBudgetMs: 1000 })).rejects.toMatchObject({
      type: 'Incompatible',
      message: expect.stringMatching(/budget of 1000 ms is less than/),
    });
    const result = await planCheckpoint(deps, testOp(), { ...request, freezeBudgetMs: 60_000 });

    expect(result).toMatchObject({ gpuProcesses: 1, vramBytes: 64 * MIB });
    expect(result.estimatedBytes).toBeGreaterThan(64 * MIB + SAVE_OVERHEAD_BYTES);
  });

  test('limits without room are raised before the save and put back after it, by the kernel and not by a file', async () => {
    const limit = 128 * MIB;
    const init = await start('limited', program('a', ...on(FIRST)), ['--memory-limit', String(limit)]);
    await started(init, 'a');
    const facts = await inspect('limited');

    const { plan, refusals } = await analyze(facts);
    const planned = planOf(facts, plan);
    const read = (): number[] => plan.memoryRaises.map(({ file }) => Number(readFileSync(file, 'utf8')));
    const before = read();
    raiseMemory(planned);
    const raised = read();
    const left = await putBackMemory(planned);

    expect(refusals).toEqual([]);
    expect(plan.memoryRaises.map(({ file }) => file)).toEqual([
      expect.stringContaining(`${namespace}/limited/memory.`),
    ]);
    expect(before).toEqual([limit]);
    expect(raised[0]).toBeGreaterThan(64 * MIB + SAVE_OVERHEAD_BYTES);
    expect(left).toEqual([]);
    expect(read()).toEqual([limit]);
  });

  test('a forked child is scrubbed after the save of its parent, and then CRIU can dump the container', async () => {
    const init = await withNodes('forked', `exec ${program('a', ...on(FIRST), '--nodes', NODES, '--fork')}`);
    await started(init, 'a');
    const facts = await inspect('forked');
    const { plan, unsupported } = await analyze(facts);
    const [child] = plan.children;
    const opened = deps.gpu();
    const driver = opened.driver;
    if (driver === undefined || child === undefined) {
      throw new Error('no driver, or no child');
    }
    const dump = (name: string): ReturnType<typeof runExeca> => {
      const paths = ['--image-path', join(dir, name), '--work-path', join(dir, `${name}-work`)];
      const args = ['--root', facts.runcRoot, 'checkpoint', '--leave-running', ...paths, 'forked'];
      return runExeca(deps.settings.runcPath, args, { env: { PATH: deps.settings.programPath } });
    };

    expect(unsupported).toEqual([]);
    expect(plan.processes.map(({ hostPid }) => hostPid)).toEqual([init]);
    await driver.lock(init, DEADLINE_MS, DEADLINE_MS);
    await driver.checkpoint(init, DEADLINE_MS);
    await until('the parent to let go', () => deviceHoldings(init).fds.length === 0);
    const refused = await dump('refused');
    // as if it had been forked after the plan
    const children = await childrenNow({ facts, gpu: { ...plan, children: [] } }, driver);
    const scrubbed = await scrubChildren(planOf(facts, { ...plan, children }), testOp().log);
    const dumped = await dump('dumped');
    await driver.restore(init, [], DEADLINE_MS);
    await driver.unlock(init, DEADLINE_MS);

    expect(refused.stderr).toMatch(/criu failed/);
    expect(scrubbed).toEqual([{ hostPid: child.hostPid, mappings: 1, descriptors: expect.any(Number) }]);
    expect(deviceHoldings(child.hostPid)).toEqual({ ranges: [], fds: [] });
    expect(dumped).toMatchObject({ exitCode: 0, stderr: '' });
    await until('the parent to have its devices again', () => deviceHoldings(init).fds.length > 0);
  });

  test('a hook runs in the container, with its files; one that is not there is told', async () => {
    const init = await start('hooked', program('a', ...on(FIRST)));
    await started(init, 'a');
    const facts = await inspect('hooked');
    const plan = { container: facts.ref, facts, settings: deps.settings };
    const never = new AbortController().signal;
    const hook = (...command: string[]): Promise<void> =>
      runHook(deps.run, plan, workloadHook.parse({ command, timeoutMs: 3000 }), never);

    await hook('/bin/sh', '-c', 'echo "$0" > /tmp/hook', 'two words');
    expect(readFileSync(`/proc/${init}/root/tmp/hook`, 'utf8')).toBe('two words\n');
    await expect(hook('/bin/absent')).rejects.toMatchObject({ type: 'InvalidInput' });
    await expect(hook('/bin/sh', '-c', 'echo why >&2; exit 4')).rejects.toMatchObject({
      type: 'DumpFailed',
      message: expect.stringMatching(/exit code 4\): why/),
    });
    await expect(hook('/bin/sh', '-c', 'trap "" TERM; sleep 77')).rejects.toThrow(/did not end within 3000 ms/);
    expect((await inspect('hooked')).processes.map((process) => process.command)).not.toContain('sleep');
  });

  test('a signal to the first process is acknowledged by a file of the container', async () => {
    const handler = 'trap "touch /tmp/quiet" USR1; touch /tmp/ready; while :; do sleep 0.1; done';
    const init = await start('signalled', handler);
    await until('the handler', () => statSync(`/proc/${init}/root/tmp/ready`, { throwIfNoEntry: false }) !== undefined);
    const facts = await inspect('signalled');
    writeFileSync(`/proc/${init}/root/tmp/quiet`, 'of an earlier time');

    await runHook(
      deps.run,
      { container: facts.ref, facts, settings: deps.settings },
      workloadHook.parse({ signal: 'SIGUSR1', acknowledgement: '/tmp/quiet', timeoutMs: 10_000 }),
      new AbortController().signal,
    );

    expect(statSync(`/proc/${init}/root/tmp/quiet`).mtimeMs).toBeGreaterThan(0);
  });
});
