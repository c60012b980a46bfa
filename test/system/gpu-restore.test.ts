/*
 * The restore of containers with GPU processes, through the real workflow, containerd, runc and CRIU; the driver is the
 * fake one (native/fake), with the ABI of the real one. Checkpoints are hand-made.
 */
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { KybernateError, isKybernateError, messageOf } from '../../core/errors.ts';
import type { OciSpec } from '../../core/oci/spec.ts';
import { hookMounts } from '../../engine/gpu/hook-mounts.ts';
import { readMounts } from '../../native/proc/mounts.ts';
import { readProcess } from '../../native/proc/tree.ts';
import { FakeGpu, fakeDevice, whyNoFakes } from '../harness/fake-gpu.ts';
import { GpuContainers, type GpuWorkload, MIB, mountInto } from '../harness/gpu-checkpoint.ts';
import { RUNTIME, from } from '../harness/shim-node.ts';
import { PYTHON, Stack, until } from '../harness/stack.ts';
import { workload } from '../harness/workloads.ts';
import { fromLane } from '../harness/provided.ts';

const [FIRST, SECOND] = [fakeDevice(0), fakeDevice(1)];
const reason = whyNoFakes();

describe.skipIf(reason !== undefined)(
  `a container with GPU processes${reason === undefined ? '' : ` (${reason})`}`,
  () => {
    let fake: FakeGpu;
    let stack: Stack;
    let gpu: GpuContainers;
    let serial = 0;
    const made: string[] = [];

    beforeAll(async () => {
      fake = FakeGpu.open([FIRST, SECOND]);
      stack = await Stack.open({ withSidecar: false, env: fake.environment });
      gpu = new GpuContainers(stack, fake);
    });

    afterEach(async () => {
      // What runs on holds VRAM.
      for (const id of made.splice(0)) {
        await stack.removeContainer(id);
      }
      fake.setRules([]);
      fake.clearCalls();
    });

    afterAll(async () => {
      gpu.close();
      await stack.close();
      fake.close();
    });

    function name(): string {
      serial += 1;
      made.push(`g${serial}`);
      return `g${serial}`;
    }

    const pair = (from: { uuid: string }, to: { uuid: string }): { from: string; to: string } => ({
      from: from.uuid,
      to: to.uuid,
    });

    async function captured(workloads: readonly GpuWorkload[], flags: readonly string[] = []): Promise<string> {
      const source = name();
      await gpu.start(source, workloads, flags);
      return gpu.checkpointAndRemove(source, workloads);
    }

    let commonId: string | undefined;

    /** Of one process, made once: it restores any number of times, and most tests are about that. */
    async function common(): Promise<string> {
      commonId ??= await captured([{ name: 'common' }]);
      return commonId;
    }

    /** As if the node worker ran on another machine: the driver tells its devices once. */
    async function elsewhere(change: () => void, act: () => Promise<void>): Promise<void> {
      const restart = async (): Promise<void> => {
        await stack.stopNodeWorker();
        await stack.startWorkers();
      };
      change();
      await restart();
      try {
        await act();
      } finally {
        fake.setApiVersion(13_000);
        fake.setDevices([FIRST, SECOND]);
        await restart();
      }
    }

    async function failureOf(operation: Promise<unknown>): Promise<KybernateError> {
      const error: unknown = await operation.then(
        () => undefined,
        (failure: unknown) => failure,
      );
      return isKybernateError(error) ? error : new KybernateError('Internal', `no such failure: ${messageOf(error)}`);
    }

    /** Nothing runs under this id, and nothing of it is known. */
    async function isGone(id: string): Promise<void> {
      expect(await stack.ctr('containers', 'ls', '-q')).not.toMatch(new RegExp(`^${id}$`, 'm'));
      expect(await stack.ctr('snapshots', 'ls')).not.toContain(id);
      expect(await gpu.pids(id)).toEqual([]);
    }

    it('comes back under a new id with its tokens in memory, file and VRAM', async () => {
      const [source, back] = [name(), name()];
      const workloads = [{ name: source }];
      await gpu.start(source, workloads);
      const before = await gpu.tokens(source, source);
      const checkpointId = await gpu.checkpointAndRemove(source, workloads);
      fake.clearCalls();

      const result = await stack.restore(checkpointId, back);

      expect(result.how).toBe('restored');
      expect(await gpu.tokens(back, source)).toEqual({ ...before, vram: `vram of ${source}` });
      await gpu.counts(back, source);
      const hostPid = await gpu.hostPid(back, source);
      expect(fake.done()).toEqual([`Restore ${hostPid}`, `Unlock ${hostPid}`]);
      expect(result.gpuProcesses).toBe(1);
      expect(result.gpu).toMatchObject({ processes: 1, vramBytes: 64 * MIB, map: [pair(FIRST, FIRST)] });
      const { parts = {}, restoreMs = 0 } = result.gpu ?? {};
      expect(Object.keys(parts)).toEqual(['gpu-devices', 'gpu-restore', 'gpu-unlock']);
      expect(Math.abs(Object.values(parts).reduce((sum, ms) => sum + ms, 0) - restoreMs)).toBeLessThan(1);
      expect(result.restoreMs).toBeGreaterThan(restoreMs);
      await stack.removeContainer(back);
      await isGone(back);
    });

    it('moves to the GPU that it is told, whose node is made inside', async () => {
      const checkpointId = await common();
      const back = name();

      const result = await stack.restore(checkpointId, back, { gpuMap: [pair(FIRST, SECOND)] });

      expect(result.gpu?.map).toEqual([pair(FIRST, SECOND)]);
      expect((await gpu.tokens(back, 'common')).vram).toBe('vram of common');
      const hostPid = await gpu.hostPid(back, 'common');
      expect(gpu.driver.memoryInUse()).toContainEqual({ hostPid, uuid: SECOND.uuid, usedBytes: 64 * MIB });
      const node = await stack.exec(back, '/bin/sh', '-c', 'ls -l /dev/nvidia*');
      expect(node).toMatch(/^crw-rw-rw-.* 195, +1 .*\/dev\/nvidia1\n$/);
      const { pid } = await gpu.state(back, 'common');
      const allowed = readFileSync(`/sys/fs/cgroup/devices/${stack.namespace}/${back}/devices.list`, 'utf8');
      expect(allowed).toContain('c 195:1 rwm');
      expect(allowed).not.toContain('c 195:0 ');
      expect(pid).toBeGreaterThan(1);
      await gpu.counts(back, 'common');
    });

    it('finds another GPU by itself where its own is not on the node', async () => {
      const checkpointId = await common();
      const back = name();

      await elsewhere(
        () => fake.setDevices([{ ...FIRST, uuid: SECOND.uuid }]),
        async () => {
          expect((await stack.restore(checkpointId, back)).gpu?.map).toEqual([pair(FIRST, SECOND)]);
        },
      );

      expect((await gpu.tokens(back, 'common')).vram).toBe('vram of common');
    });

    it('comes back with two processes, each on the GPUs that it saw', async () => {
      const workloads = [{ name: 'one' }, { name: 'both', devices: [0, 1] }];
      const checkpointId = await captured(workloads);
      const back = name();

      const result = await stack.restore(checkpointId, back, { gpuMap: [pair(FIRST, SECOND)] });

      expect(result.gpu?.map).toEqual([pair(FIRST, SECOND), pair(SECOND, FIRST)]);
      expect((await gpu.tokens(back, 'one')).vram).toBe('vram of one');
      expect((await gpu.tokens(back, 'both')).vram).toBe('vram of both');
      const done = fake.done().map((call) => call.split(' ')[0]);
      expect(done.slice(-4)).toEqual(['Restore', 'Restore', 'Unlock', 'Unlock']);
    });

    it('restores twice at once on one GPU', async () => {
      const checkpointId = await common();
      const ids = [name(), name()];

      const results = await Promise.all(ids.map((id) => stack.restore(checkpointId, id)));

      expect(results.map(({ how }) => how)).toEqual(['restored', 'restored']);
      for (const id of ids) {
        expect((await gpu.tokens(id, 'common')).vram).toBe('vram of common');
        await gpu.counts(id, 'common');
      }
    });

    it.each<[string, (checkpointId: string, id: string) => Promise<unknown>, RegExp]>([
      [
        'a map onto a GPU that the node lacks',
        (checkpointId, id) => stack.restore(checkpointId, id, { gpuMap: [pair(FIRST, fakeDevice(7))] }),
        /this node has no GPU GPU-[0-9a-f-]+7 /,
      ],
      [
        'a map of a GPU that the checkpoint lacks',
        (checkpointId, id) => stack.restore(checkpointId, id, { gpuMap: [pair(SECOND, FIRST)] }),
        /the checkpoint has no GPU/,
      ],
      [
        'too little VRAM where it is told to go',
        async (checkpointId, id) => {
          await fake.startProcess(`hog-${id}`, '--vram', String(FIRST.totalBytes - 32 * MIB));
          const gpuMap = [pair(FIRST, FIRST)];
          return stack.restore(checkpointId, id, { gpuMap }).finally(() => fake.endProcesses());
        },
        /has 33554432 bytes free, 67108864 are needed/,
      ],
    ])('is refused before anything is made: %s', async (_title, restore, why) => {
      const checkpointId = await common();
      const id = name();
      fake.clearCalls();

      const error = await failureOf(restore(checkpointId, id));
      expect(error.message).toMatch(why);
      expect(error.type).toBe('Incompatible');

      await isGone(id);
      expect(fake.done()).toEqual([]);
    });

    it('comes back once where two restores come at once and one has room: the other is refused at once', async () => {
      const checkpointId = await common();
      const ids = [name(), name()];
      await fake.startProcess('hog-pair', '--vram', String(FIRST.totalBytes - 100 * MIB));
      fake.setRules([{ call: 'Restore', action: 'slow=300' }]);

      const both = ids.map((id) => stack.restore(checkpointId, id, { gpuMap: [pair(FIRST, FIRST)] }));
      const results = await Promise.allSettled(both).finally(() => fake.endProcesses());

      const refused = results.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : []));
      expect(refused).toEqual([expect.objectContaining({ type: 'Incompatible' })]);
    });

    it('is ended and restored once more when the GPU runs out of memory', async () => {
      const checkpointId = await common();
      const back = name();
      fake.clearCalls();
      fake.setRules([{ call: 'Restore', nth: 1, action: 'oom' }]);

      const result = await stack.restore(checkpointId, back);

      expect(result.how).toBe('restored');
      expect((await gpu.tokens(back, 'common')).vram).toBe('vram of common');
      const restores = fake.calls().filter(({ call, what }) => call === 'Restore' && what === 'end');
      expect(restores.map((call) => call.result)).toEqual([2, 0]);
      expect(restores[0]?.pid).not.toBe(restores[1]?.pid);
      expect(readProcess(restores[0]?.pid ?? 0)).toBeUndefined();
    });

    it('fails when the GPU runs out of memory again, leaves nothing, and restores later', async () => {
      const checkpointId = await common();
      const [failed, later] = [name(), name()];
      fake.setRules([{ call: 'Restore', action: 'oom' }]);

      await expect(stack.restore(checkpointId, failed)).rejects.toMatchObject({ type: 'GpuOutOfMemory' });

      await isGone(failed);
      fake.setRules([]);
      await stack.restore(checkpointId, later);
      expect((await gpu.tokens(later, 'common')).vram).toBe('vram of common');
    });

    it('is ended when the driver refuses one of its processes', async () => {
      const checkpointId = await captured([{ name: 'a' }, { name: 'b' }]);
      const id = name();
      fake.setRules([{ call: 'Unlock', nth: 2, action: 'error=999' }]);

      const error = await failureOf(stack.restore(checkpointId, id, { ladder: ['local-copy'] }));
      expect(error.message).toMatch('cuCheckpointProcessUnlock');
      expect(error.type).toBe('RestoreFailed');

      await isGone(id);
    });

    it('comes back on another GPU of its model when the driver refuses it on its own', async () => {
      const checkpointId = await common();
      const id = name();
      fake.setRules([{ call: 'Restore', nth: 1, action: 'error=999' }]);

      const result = await stack.restore(checkpointId, id);

      const tried = result.rungs.filter(({ outcome }) => outcome !== 'skipped');
      expect(tried).toMatchObject([
        { rung: 'local-copy', outcome: 'failed', type: 'RestoreFailed' },
        { rung: 'another-gpu', outcome: 'restored' },
      ]);
      expect(result.gpu?.map).toEqual([pair(FIRST, SECOND)]);
      expect((await gpu.tokens(id, 'common')).vram).toBe('vram of common');
    });

    it('is ended when the driver does not come back within the budget', async () => {
      const checkpointId = await common();
      const id = name();
      fake.setRules([{ call: 'Restore', action: 'slow=6000' }]);

      const error = await failureOf(stack.restore(checkpointId, id, { restoreBudgetMs: 4000 }));
      expect(error.message).toMatch('did not return within');
      expect(error.type).toBe('RestoreFailed');

      await isGone(id);
    });

    it('is restored by the next worker when one is killed while the GPU state comes back', async () => {
      const checkpointId = await common();
      const id = name();
      fake.clearCalls();
      fake.setRules([{ call: 'Restore', nth: 1, action: 'slow=60000' }]);

      const restoring = stack.restore(checkpointId, id, { timeouts: { heartbeatMs: 3000 } });
      // A slow call of the test before may end only now.
      const begun = (): number | undefined =>
        fake.calls().find(({ call, what }) => call === 'Restore' && what === 'begin')?.pid;
      await until('the restore of the GPU', () => begun() !== undefined);
      const hostPid = begun() ?? 0;
      const killed = stack.killNodeWorker();
      await until('the end of the half-restored process', () => readProcess(hostPid) === undefined);
      await killed;
      await stack.startWorkers();
      const result = await restoring;

      expect(result.how).toBe('restored');
      expect((await gpu.tokens(id, 'common')).vram).toBe('vram of common');
      await gpu.counts(id, 'common');
    });

    it('has its memory limit back when the VRAM is on the device again', async () => {
      const limit = 200 * MIB;
      const checkpointId = await captured([{ name: 'limited' }], ['--memory-limit', String(limit)]);
      const id = name();

      await stack.restore(checkpointId, id);
      const bundle = join(fromLane('containerd').dir, 'state/io.containerd.runtime.v2.task', stack.namespace, id);
      const spec = JSON.parse(readFileSync(join(bundle, 'config.json'), 'utf8')) as OciSpec;
      expect(spec.linux?.resources?.memory?.limit).toBeGreaterThan(600 * MIB);
      const file = `/sys/fs/cgroup/memory/${stack.namespace}/${id}/memory.limit_in_bytes`;
      expect(Number(readFileSync(file, 'utf8'))).toBe(limit);
    });

    it('has room in the cgroups above it for as long as the restore takes, whether it succeeds or not', async () => {
      const checkpointId = await common();
      const file = `/sys/fs/cgroup/memory/${stack.namespace}/memory.limit_in_bytes`;
      const limit = (): number => Number(readFileSync(file, 'utf8'));
      const unlimited = readFileSync(file, 'utf8').trim();
      writeFileSync(file, String(400 * MIB));
      try {
        fake.setRules([
          { call: 'Restore', action: 'slow=1500' },
          { call: 'Unlock', nth: 2, action: 'error=999' },
        ]);

        const restoring = stack.restore(checkpointId, name());
        await until('the limit to be raised', () => limit() > 600 * MIB);
        await restoring;
        expect(limit()).toBe(400 * MIB);

        const failing = failureOf(stack.restore(checkpointId, name(), { ladder: ['local-copy'] }));
        await until('the limit to be raised again', () => limit() > 600 * MIB);
        expect((await failing).type).toBe('RestoreFailed');
        expect(limit()).toBe(400 * MIB);
      } finally {
        writeFileSync(file, unlimited);
      }
    });

    it('restores where ctr made the container, on the GPU that it was given', async () => {
      const checkpointId = await common();
      const id = name();
      const flags = [...RUNTIME, ...from(checkpointId), '--env', `NVIDIA_VISIBLE_DEVICES=${SECOND.uuid}`];

      await stack.runContainer(id, PYTHON, ['false'], [...workload(), ...flags]);

      expect((await gpu.tokens(id, 'common')).vram).toBe('vram of common');
      const hostPid = await gpu.hostPid(id, 'common');
      expect(gpu.driver.memoryInUse()).toContainEqual({ hostPid, uuid: SECOND.uuid, usedBytes: 64 * MIB });
    });

    it('is not restored where ctr made the container and the driver refuses', async () => {
      const checkpointId = await common();
      const id = name();
      fake.setRules([{ call: 'Restore', action: 'oom' }]);

      await expect(
        stack.runContainer(id, PYTHON, ['false'], [...workload(), ...RUNTIME, ...from(checkpointId)]),
      ).rejects.toThrow(/out of memory|OUT_OF_MEMORY/i);

      expect(await gpu.pids(id)).toEqual([]);
    });

    it('ends a container that has something else under the name of its GPU, and follows no link of it', async () => {
      const source = name();
      const workloads = [{ name: 'link' }];
      await gpu.start(source, workloads);
      await stack.exec(source, '/bin/sh', '-c', 'ln -s /etc/hostile /dev/nvidia1');
      const checkpointId = await gpu.checkpointAndRemove(source, workloads);

      const error = await failureOf(stack.restore(checkpointId, name(), { gpuMap: [pair(FIRST, SECOND)] }));
      expect(error.message).toMatch('/dev/nvidia1 of the restored container is not device 195:1');
      expect(error.type).toBe('RestoreFailed');

      expect(existsSync('/etc/hostile')).toBe(false);
      expect(fake.done().filter((call) => call.startsWith('Restore'))).toEqual([]);
    });

    it('starts afresh when its policy says so, after the second try', async () => {
      const checkpointId = await common();
      const id = name();
      fake.setRules([{ call: 'Restore', action: 'oom' }]);

      const result = await stack.restore(checkpointId, id, { onFailure: 'cold-start' });

      expect(result.how).toBe('cold-started');
      expect(result.gpu).toBeUndefined();
      expect(fake.calls().filter(({ call, what }) => call === 'Restore' && what === 'end')).toHaveLength(2);
      expect((await gpu.tokens(id, 'common')).vram).toBeUndefined();
    });

    it('comes back with a file of the driver that a hook had mounted, in the version that is here', async () => {
      const source = name();
      const workloads = [{ name: 'hook' }];
      const [was, is] = ['libcuda.so.570.1', `libcuda.so.${gpu.driver.version}`].map((file) => join(stack.dir, file));
      const destination = '/tmp/libcuda.so.1';
      writeFileSync(was ?? '', 'of the source');
      await gpu.start(source, workloads);
      await stack.exec(source, '/bin/sh', '-c', `touch ${destination}`);
      const hostPid = await gpu.hostPid(source, 'hook');
      await mountInto(hostPid, was ?? '', destination);
      expect(await stack.read(source, destination)).toBe('of the source');
      const found = hookMounts({}, readMounts(hostPid), readMounts('self')).mounts;
      expect(found).toEqual([{ destination, source: was }]);
      const config = found.map((mount) => `external mnt[${mount.destination}]:${mount.destination}\n`).join('');
      const driver = '570.1';
      const metadata = { hookMounts: [...found] };
      const checkpointId = await gpu.checkpointAndRemove(source, workloads, metadata, { criuConfig: config, driver });
      renameSync(was ?? '', is ?? '');
      writeFileSync(is ?? '', 'of this node.');
      const back = name();

      await stack.restore(checkpointId, back);

      expect(await stack.read(back, destination)).toBe('of this node.');
      expect((await gpu.tokens(back, 'hook')).vram).toBe('vram of hook');
    });

    it('moves nowhere where the driver cannot, and keeps its GPU there', async () => {
      const checkpointId = await common();

      await elsewhere(
        () => fake.setApiVersion(12_080),
        async () => {
          await expect(stack.restore(checkpointId, name(), { gpuMap: [pair(FIRST, SECOND)] })).rejects.toThrow(
            /driver API 12080 cannot restore onto another GPU/,
          );
          expect((await stack.restore(checkpointId, name())).gpu?.map).toEqual([pair(FIRST, FIRST)]);

          fake.setRules([{ call: 'Restore', action: 'oom' }]);
          const error = await failureOf(stack.restore(checkpointId, name()));
          expect(error.type).toBe('GpuOutOfMemory');
          expect(error.details).toMatchObject({
            rungs: [
              { rung: 'local-copy', outcome: 'failed', type: 'GpuOutOfMemory' },
              { rung: 'other-tier' },
              { rung: 'peer' },
              {
                rung: 'another-gpu',
                outcome: 'skipped',
                reason: expect.stringContaining('cannot restore onto another GPU') as string,
              },
            ],
          });
        },
      );
    });

    it('is refused where the GPUs are of another model', async () => {
      const checkpointId = await common();

      await elsewhere(
        () => fake.setDevices([{ ...SECOND, name: 'Fake L4' }]),
        () => expect(stack.restore(checkpointId, name())).rejects.toThrow(/is Fake L4 .*needs Fake H100/),
      );
    });
  },
);
