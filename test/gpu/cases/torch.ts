/* PyTorch: a training that was checkpointed and restored writes the same losses, bit for bit, as one that was not. */
import type { Case, CaseContext } from '../case.ts';
import { assert, assertEqual, BUSYBOX, type Environment, until } from '../environment.ts';
import { gpuFlags } from '../gpu-container.ts';
import { assertUnlocked, recordCheckpoint, recordRestore } from '../gpu-state.ts';

const LOG = '/data/losses';
/** Shared memory of a DataLoader's workers. */
const SHM = ['--mount', 'type=tmpfs,dst=/dev/shm,options=nosuid:nodev:mode=1777:size=2147483648'];

async function lines(env: Environment, id: string): Promise<string[]> {
  const text = await env.read(id, LOG).catch(() => '');
  return text.split('\n').slice(0, -1);
}

async function start({ env, machine }: CaseContext, script: string, args: readonly string[]): Promise<string> {
  const command = [machine.python ?? 'python3', `/w/src/${script}`, ...args];
  return env.run('torch', BUSYBOX, command, gpuFlags(machine, { flags: SHM }));
}

async function done(env: Environment, id: string): Promise<string[]> {
  return until(
    `${id} to finish`,
    120_000,
    async () => {
      const all = await lines(env, id);
      assert((await env.status(id)) === 'running', `the training in ${id} runs; its log has ${all.length} lines`);
      return all.at(-1)?.startsWith('DONE') === true ? all : undefined;
    },
    100,
  );
}

/** Alone first, for the reference; then with a checkpoint that goes on, and one that is restored. */
async function bitIdentical(context: CaseContext, script: string, args: readonly string[]): Promise<void> {
  const { env, record } = context;
  const [steps] = args;
  const alone = await start(context, script, [...args.slice(0, 2), LOG, ...args.slice(2)]);
  const reference = await done(env, alone);
  await env.remove(alone);

  const id = await start(context, script, [...args.slice(0, 2), LOG, ...args.slice(2)]);
  await until('the training to begin', 90_000, async () => (await lines(env, id)).length > Number(steps) / 10, 50);
  const running = await env.checkpoint(id);
  await assertUnlocked(context, id);
  const seen = (await lines(env, id)).length;
  await until('the training to go on', 60_000, async () => (await lines(env, id)).length > seen + 5, 50);
  const stopped = await env.checkpoint(id, { after: 'stop' });
  await env.remove(id);
  const restored = await env.restore(stopped.checkpointId, 'torch-back');
  assert((await lines(env, restored.id)).length < Number(steps), 'it was captured in the middle');
  assertEqual(await done(env, restored.id), reference, 'losses');
  recordCheckpoint(context, 'resume', running);
  recordCheckpoint(context, 'stop', stopped);
  recordRestore(context, 'restore', restored);
  record('identicalLines', reference.length);
}

const real = (name: string, run: Case['run']): Case => ({ name, needs: 'gpu', real: true, timeoutMs: 300_000, run });

export const TORCH_CASES: readonly Case[] = [
  real('gpu-torch', (context) => bitIdentical(context, 'train.py', ['250', '7', '2'])),
  real('gpu-torch-forked', (context) => bitIdentical(context, 'train.py', ['200', '8', '0', 'fork'])),
  real('gpu-torch-loader', (context) => bitIdentical(context, 'loader.py', ['250', '9'])),
];
