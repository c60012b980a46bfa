/* CUDA programs in containers. Every one checks all of its GPU memory in each tick. */
import type { Case, CaseContext } from '../case.ts';
import { assert, assertEqual, until, type Environment } from '../environment.ts';
import { startVram, vramState, type VramState } from '../gpu-container.ts';

/** The three tokens are those of before, every cell of GPU memory is right, and it has ticked on. */
async function ticksOn(env: Environment, id: string, since: VramState): Promise<void> {
  await until(`${id} to tick on`, 30_000, async () => {
    const now = await vramState(env, id);
    const { tick: _before, ...before } = since;
    const { tick, ...rest } = now;
    assertEqual(rest, before, `state of ${id}`);
    return tick > since.tick + 3;
  });
}

async function starts({ env, machine }: CaseContext): Promise<void> {
  const { id, state } = await startVram(env, machine, [256]);
  assert(
    state.bad === 0 && state.file === state.path,
    `the workload is right from the start: ${JSON.stringify(state)}`,
  );
  await ticksOn(env, id, state);
}

const gpu = (name: string, run: Case['run'], timeoutMs = 60_000): Case => ({ name, needs: 'gpu', timeoutMs, run });

export const CUDA_CASES: readonly Case[] = [gpu('gpu-container', starts)];
