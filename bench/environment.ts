/* Private servers and workers for a comparison, torn down completely at its end. */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Containerd } from '../cli/dev/containerd-client.ts';
import { devVariables, withoutSettings } from '../cli/dev/environment.ts';
import { importImages, type ImageName } from '../cli/dev/images.ts';
import { startWorkers, stopWorkers } from '../cli/dev/workers.ts';
import { requireProgram } from '../cli/setup/programs.ts';
import { createKybernateClient, type KybernateClient } from '../client/index.ts';
import { openTestServers } from '../test/harness/dev-servers.ts';

export const NAMESPACE = 'bench';
export const NODE = 'bench-node';
const run = promisify(execFile);

export interface BenchEnvironment {
  readonly dir: string;
  readonly containerd: Containerd;
  readonly client: KybernateClient;
  ctr(...args: string[]): Promise<string>;
  /** host pid of a container's first process */
  pidOf(id: string): Promise<number>;
  remove(id: string): Promise<void>;
  /** `runc checkpoint --leave-running` as anybody would run it, into an empty directory; @returns its duration, ms */
  bareCheckpoint(id: string, dir: string): Promise<number>;
  close(): Promise<void>;
}

/** @param settings of the workers, beside those that every benchmark has; `(dir)` is that of the benchmark */
export async function openBench(
  images: readonly ImageName[],
  workers: boolean,
  settings: (dir: string) => Readonly<Record<string, string>> = () => ({}),
): Promise<BenchEnvironment> {
  const servers = await openTestServers();
  const { runDir } = servers;
  const paths = { dir: servers.dir, runDir, stateDir: join(servers.dir, 'node'), storeDir: join(servers.dir, 'store') };
  await Promise.all([runDir, paths.stateDir, paths.storeDir].map((dir) => mkdir(dir, { recursive: true })));
  const [temporal, containerd] = await Promise.all([servers.temporal(), servers.containerd()]);
  await importImages(containerd, NAMESPACE, images, process.env);
  if (workers) {
    const variables = devVariables(paths, NODE, { containerd, temporal }, process.env);
    const own = { ...variables, KYBERNATE_LOG_LEVEL: 'warn', PATH: containerd.path, ...settings(servers.dir) };
    const env = { ...withoutSettings(process.env), ...own };
    await startWorkers({ dir: servers.dir, node: NODE, temporal, env });
  }
  const client = await createKybernateClient({ address: temporal.address, namespace: temporal.namespace });
  const ctr = (...args: string[]): Promise<string> => containerd.ctrOk(['-n', NAMESPACE, ...args]);
  return {
    dir: servers.dir,
    containerd,
    client,
    ctr,
    async pidOf(id) {
      const line = (await ctr('tasks', 'ls')).split('\n').find((row) => row.startsWith(`${id} `));
      return Number(line?.split(/\s+/)[1]);
    },
    async remove(id) {
      await containerd.ctr(['-n', NAMESPACE, 'tasks', 'rm', '-f', id]);
      await containerd.ctr(['-n', NAMESPACE, 'containers', 'rm', id]);
    },
    async bareCheckpoint(id, dir) {
      await mkdir(join(dir, 'work'), { recursive: true });
      const root = `/run/containerd/runc/${NAMESPACE}`;
      const args = [
        '--root',
        root,
        'checkpoint',
        '--leave-running',
        '--image-path',
        dir,
        '--work-path',
        join(dir, 'work'),
        id,
      ];
      const startedAt = performance.now();
      await run(requireProgram('runc', process.env), args, { env: { ...process.env, PATH: containerd.path } });
      return performance.now() - startedAt;
    },
    async close() {
      await client.close();
      if (workers) {
        await stopWorkers(servers.dir);
      }
      await servers.close();
    },
  };
}

/** Now, on the clock of the workload's ticker, in seconds. */
export function monotonicSeconds(): number {
  return Number(process.hrtime.bigint()) / 1e9;
}

/** Longest time between two ticks within a span, in ms: the freeze as the workload sees it. */
export function longestGapMs(pid: number, from: number, to: number): number {
  const times = readFileSync(`/proc/${pid}/root/tmp/ticks`, 'utf8').split('\n').map(Number);
  let longest = 0;
  for (let at = 1; at < times.length; at += 1) {
    const [before, now] = [times[at - 1] ?? 0, times[at] ?? 0];
    if (now >= from && before <= to) {
      longest = Math.max(longest, now - before);
    }
  }
  return longest * 1000;
}
