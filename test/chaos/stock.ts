/*
 * node test/chaos/stock.ts [--tries=20]: what the stock runtime makes of the two blows that end a workload in a chaos
 * run, too. CRIU is killed in `runc checkpoint --leave-running`, 0 to 60 ms after it has begun to trace the processes;
 * a shim is killed under a container that nobody checkpoints. Nothing of Kybernate is involved in either.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { findShims } from '../../cli/dev/containerd-traces.ts';
import { requireProgram } from '../../cli/setup/programs.ts';
import { listProcesses, readProcess } from '../../native/proc/tree.ts';
import { type Job, makeJobs } from './jobs.ts';
import { Rig } from './rig.ts';

const LIMIT_MS = 15_000;
const TICK_MS = 10_000;
const SHIMS = 3;
const { values } = parseArgs({ options: { tries: { type: 'string', default: '20' } } });

/** @returns what became of the workload */
async function afterwards(job: Job): Promise<'runs on' | 'stands still' | 'has ended'> {
  const from = Date.now();
  while (Date.now() - from < TICK_MS) {
    if (!job.isAlive) {
      return 'has ended';
    }
    if ((job.last?.time ?? 0) > from) {
      return 'runs on';
    }
    await sleep(50);
  }
  return 'stands still';
}

async function killCriu(rig: Rig, job: Job, number: number, delayMs: number): Promise<string> {
  const dir = join(rig.dir, `stock-${number}`);
  mkdirSync(dir);
  const root = `/run/containerd/runc/${rig.namespace}`;
  const args = ['--root', root, 'checkpoint', '--leave-running', '--image-path', dir, '--work-path', dir, job.id];
  const child = spawn(requireProgram('runc', process.env), args, { stdio: 'ignore', env: { PATH: rig.tools.path } });
  const exited = once(child, 'exit');
  const tracer = (): number => readProcess(job.initPid)?.tracerPid ?? 0;
  for (const deadline = Date.now() + LIMIT_MS; tracer() === 0 && child.exitCode === null && Date.now() < deadline;) {
    await sleep(1);
  }
  await sleep(delayMs);
  const criu = listProcesses().filter(
    ({ command, parentHostPid }) => command === 'criu' && parentHostPid === child.pid,
  );
  criu.forEach(({ hostPid }) => process.kill(hostPid, 'SIGKILL'));
  await exited;
  return `CRIU killed after ${delayMs} ms: ${criu.length === 0 ? 'it was done, and ' : ''}${await afterwards(job)}`;
}

async function killShim(rig: Rig, job: Job): Promise<string> {
  const shims = findShims(rig.tools.address).filter(({ id }) => id === job.id);
  shims.forEach(({ pid }) => process.kill(pid, 'SIGKILL'));
  await sleep(3000);
  return `shim killed: ${await afterwards(job)}`;
}

const rig = await Rig.open();
const jobs = await makeJobs(rig);
try {
  for (const job of jobs.slice(0, 1)) {
    for (let number = 0; number < Number(values.tries); number += 1) {
      await job.start();
      console.log(await killCriu(rig, job, number, (number * 7) % 60));
      await job.remove();
    }
    for (let number = 0; number < SHIMS; number += 1) {
      await job.start();
      console.log(await killShim(rig, job));
      await job.remove();
    }
  }
} finally {
  for (const job of jobs) {
    await job.close();
  }
  await rig.close();
}
