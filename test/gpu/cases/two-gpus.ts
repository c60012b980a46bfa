/* Two GPUs: a process moved from one to the other, and a job of two ranks that talk by NCCL. */
import type { Case, CaseContext } from '../case.ts';
import { assert, assertEqual, BUSYBOX, type Environment, until } from '../environment.ts';
import { gpuFlags, startVram } from '../gpu-container.ts';
import { assertGoesOn, assertUnlocked, gpuDriver, recordCheckpoint, recordRestore } from '../gpu-state.ts';
import type { Gpu, Machine } from '../machine.ts';
import { networkNamespace } from '../pod.ts';

const SHM = ['--mount', 'type=tmpfs,dst=/dev/shm,options=nosuid:nodev:mode=1777:size=2147483648'];
/** P2P maps memory between the GPUs, which the driver cannot bring back; CRIU knows no io_uring. */
const NCCL = [
  'NCCL_P2P_DISABLE=1',
  'NCCL_CUMEM_ENABLE=0',
  'NCCL_CUMEM_HOST_ENABLE=0',
  'NCCL_SOCKET_IFNAME=lo',
  'NCCL_IB_DISABLE=1',
  'UV_USE_IO_URING=0',
  'USE_LIBUV=0',
];

export function twoGpus({ gpus: [first, second] }: Machine): [Gpu, Gpu] {
  assert(first !== undefined && second !== undefined, 'there are two GPUs');
  return [first, second];
}

/** UUIDs of the devices on which a container's processes hold memory, as NVML says. */
export async function devicesOf({ env, machine }: CaseContext, id: string): Promise<string[]> {
  const pids = new Set(await env.pids(id));
  const used = gpuDriver(machine)?.memoryInUse() ?? [];
  return used.filter(({ hostPid }) => pids.has(hostPid)).map(({ uuid }) => uuid);
}

/** @param visible both GPUs are visible at the dump, or the first alone */
function moved(visible: 'one' | 'both'): Case['run'] {
  return async (context) => {
    const { env, machine } = context;
    const [from, to] = twoGpus(machine);
    const minors = visible === 'one' ? [from.minor] : [from.minor, to.minor];
    const { id, state } = await startVram(context, [1024], { minors });
    assertEqual(await devicesOf(context, id), [from.uuid], 'device before');
    const stopped = await env.checkpoint(id, { after: 'stop' });
    await env.remove(id);
    const pair = { from: from.uuid, to: to.uuid };
    const gpuMap = visible === 'one' ? [pair] : [pair, { from: to.uuid, to: from.uuid }];
    const restored = await env.restore(stopped.checkpointId, 'moved', { gpuMap });
    await assertGoesOn(context, restored.id, state);
    assertEqual(await devicesOf(context, restored.id), [to.uuid], 'device after');
    recordCheckpoint(context, 'checkpoint', stopped);
    recordRestore(context, 'restore', restored);
  };
}

/** The first GPU is taken: a restore without a map finds the other one by itself. */
async function evades(context: CaseContext): Promise<void> {
  const { env, machine } = context;
  const [from, to] = twoGpus(machine);
  const { id, state } = await startVram(context, [1024], { minors: [from.minor] });
  const { checkpointId } = await env.checkpoint(id, { after: 'stop' });
  await env.remove(id);
  await startVram(context, [from.memoryMib - 2048], { minors: [from.minor] });
  const restored = await env.restore(checkpointId, 'evaded');
  await assertGoesOn(context, restored.id, state);
  assertEqual(await devicesOf(context, restored.id), [to.uuid], 'device after');
}

interface DdpState {
  readonly tick: number;
  readonly bad: number;
}

async function stepsOn(env: Environment, id: string): Promise<void> {
  const { tick } = await env.readJson<DdpState>(id, '/tmp/state.json', 120_000);
  await until(
    `${id} to step on`,
    60_000,
    async () => {
      const now = await env.readJson<DdpState>(id);
      assertEqual(now.bad, 0, 'wrong sums');
      return now.tick > tick + 10;
    },
    50,
  );
}

async function startRanks({ env, machine }: CaseContext, network: string): Promise<string> {
  const minors = twoGpus(machine).map(({ minor }) => minor);
  const flags = gpuFlags(machine, { minors, variables: NCCL, flags: [...SHM, '--with-ns', `network:${network}`] });
  return env.run('ddp', BUSYBOX, [machine.python ?? 'python3', '/w/src/ddp.py'], flags);
}

async function ranks(context: CaseContext): Promise<void> {
  const { env } = context;
  const network = await networkNamespace('kybgpu');
  try {
    const id = await startRanks(context, network.path);
    await stepsOn(env, id);
    context.record('rehearsal', await env.rehearse(id));
    await stepsOn(env, id);
    const running = await env.checkpoint(id);
    await stepsOn(env, id);
    await assertUnlocked(context, id);
    const stopped = await env.checkpoint(id, { after: 'stop' });
    await env.remove(id);
    const restored = await env.restore(stopped.checkpointId, 'ddp-back', {
      tcp: 'keep',
      networkNamespace: network.path,
    });
    await stepsOn(env, restored.id);
    recordCheckpoint(context, 'resume', running, 2);
    recordCheckpoint(context, 'stop', stopped, 2);
    recordRestore(context, 'restore', restored, 2);
  } finally {
    await env.removeAll();
    await network.remove();
  }
}

/** One process with contexts on both GPUs, without peer access: refused until it was rehearsed. */
async function bothGpus(context: CaseContext): Promise<void> {
  const { env, machine } = context;
  const minors = twoGpus(machine).map(({ minor }) => minor);
  const command = [machine.python ?? 'python3', '/w/src/ddp.py', 'single'];
  const id = await env.run('both', BUSYBOX, command, gpuFlags(machine, { minors, flags: SHM }));
  await stepsOn(env, id);
  const refused = await env.checkpoint(id).then(
    () => undefined,
    (error: unknown) => String(error),
  );
  assert(refused?.includes('rehearse') === true, `it is refused, and told to rehearse: ${refused}`);
  context.record('rehearsal', await env.rehearse(id));
  await stepsOn(env, id);
  const { checkpointId } = await env.checkpoint(id, { after: 'stop' });
  await env.remove(id);
  const restored = await env.restore(checkpointId, 'both-back');
  await stepsOn(env, restored.id);
}

const two = (name: string, run: Case['run']): Case => ({
  name,
  needs: 'two-gpus',
  real: true,
  timeoutMs: 240_000,
  run,
});

export const TWO_GPU_CASES: readonly Case[] = [
  two('gpus-moved', moved('one')),
  two('gpus-moved-both-visible', moved('both')),
  two('gpus-evaded', evades),
  two('gpus-nccl', ranks),
  two('gpus-one-process', bothGpus),
];
