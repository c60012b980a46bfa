/* Processes that come in by exec, as a kubelet's probes do, while CRIU dumps the container. No GPU is touched. */
import { readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';

import { freezerCgroup, groupPids } from '../../../native/proc/cgroup.ts';
import type { Case, CaseContext } from '../case.ts';
import { assert, assertEqual, type Environment, until } from '../environment.ts';
import { errorType, killOperationOf } from '../gpu-state.ts';
import { goesOn, startMemory, untilStep } from './cpu.ts';

/** Makes a node of a device that no container may open, and tries to: how often it could, and could not. */
const OPENS = `import os, sys, time
could = could_not = 0
path = "/tmp/node" + sys.argv[1]
os.mknod(path, 0o20600, os.makedev(1, 11))
while True:
    try:
        os.close(os.open(path, os.O_RDONLY))
        could += 1
    except PermissionError:
        could_not += 1
    with open(path + ".new", "w") as out:
        out.write(f'[{could}, {could_not}]')
    os.rename(path + ".new", path + ".json")
    time.sleep(0.002)`;

/** A process that joins the container and stays. @returns host pid, and how often it could open the device and could not */
async function enter(
  env: Environment,
  id: string,
  name: string,
): Promise<{ hostPid: number; opened: () => Promise<[number, number]> }> {
  const before = new Set(await env.pids(id));
  await env.ctr('tasks', 'exec', '-d', '--exec-id', name, id, '/usr/bin/python3', '-c', OPENS, name);
  const opened = async (): Promise<[number, number]> => env.readJson<[number, number]>(id, `/tmp/node${name}.json`);
  await opened();
  const hostPid = (await env.pids(id)).find((pid) => !before.has(pid));
  assert(hostPid !== undefined, `${name} is in the cgroup of ${id}`);
  return { hostPid, opened };
}

function asidesOf(cgroup: string): string[] {
  return readdirSync(dirname(cgroup)).filter((entry) => entry.startsWith('kybernate-aside-'));
}

/** What came in by exec is set aside for the dump, where it may do no more than before; one that is killed ends nothing. */
async function execDuringDump({ env, record }: CaseContext): Promise<void> {
  const { id, state } = await startMemory(env, 1024);
  const [stays, killed] = [await enter(env, id, 'stays'), await enter(env, id, 'killed')];
  const own = freezerCgroup(await env.initPid(id))?.path ?? '';
  const handle = await env.startCheckpoint(id);
  await untilStep(env, id, 'frozen', 'done');
  const aside = await until('the group beside it', 20_000, () => asidesOf(own)[0], 1);
  const inIt = groupPids(join(dirname(own), aside));
  const [, triedBefore] = await stays.opened();
  await until('its next tries', 20_000, async () => (await stays.opened())[1] > triedBefore + 3, 1);
  process.kill(killed.hostPid, 'SIGKILL');
  const result = await handle.result();
  assertEqual(result.source, 'running', 'source');
  assertEqual(new Set(inIt).size, 2, 'processes that were set aside');
  assert(inIt.includes(stays.hostPid) && inIt.includes(killed.hostPid), `they are those: ${inIt.join(' ')}`);
  assert(
    result.warnings.some((warning) => warning.includes('came in by exec')),
    `a warning tells of them: ${result.warnings.join('; ')}`,
  );
  assert(groupPids(own).includes(stays.hostPid), 'the one that lives is back');
  assertEqual(asidesOf(own), [], 'groups beside it');
  record('opened', await stays.opened());
  assertEqual((await stays.opened())[0], 0, 'times that a device could be opened');
  await goesOn(env, id, state);
  await env.remove(id);
  const restored = await env.restore(handle.checkpointId, 'memory-back');
  await goesOn(env, restored.id, state);
}

/** Whoever undoes the dump brings it back. */
async function execAndKilled({ env }: CaseContext): Promise<void> {
  const { id, state } = await startMemory(env, 1024);
  const stays = await enter(env, id, 'stays');
  const own = freezerCgroup(await env.initPid(id))?.path ?? '';
  const handle = await env.startCheckpoint(id);
  await until('the group beside it', 30_000, () => asidesOf(own)[0], 1);
  killOperationOf(env, id);
  assertEqual(await errorType(handle.result()), 'DumpFailed', 'error');
  assert(groupPids(own).includes(stays.hostPid), 'it is back in the cgroup of its container');
  assertEqual(asidesOf(own), [], 'groups beside it');
  assertEqual((await stays.opened())[0], 0, 'times that a device could be opened');
  await goesOn(env, id, state);
}

const cpu = (name: string, run: Case['run']): Case => ({ name, needs: 'cpu', timeoutMs: 90_000, run });

export const EXEC_CASES: readonly Case[] = [
  cpu('cpu-exec-during-dump', execDuringDump),
  cpu('cpu-exec-and-killed', execAndKilled),
];
