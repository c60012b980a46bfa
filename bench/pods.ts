import { installRuntimes } from '../cli/host/runtimes.ts';
import { requireProgram } from '../cli/setup/programs.ts';
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { RUNTIME_HANDLERS } from '../shim/containerd-config.ts';
import { type Cluster, startCluster } from '../test/kubernetes/cluster.ts';
import { podManifest, Pods } from '../test/kubernetes/pods.ts';
import type { Subject } from './subject.ts';

const BUSYBOX = 'docker.io/kybernate/busybox:1';

/** Moments at which containerd has started a task, as it tells them. */
function watchStarts(cluster: Cluster): { next(count: number): Promise<number>; end(): void } {
  const { containerd } = cluster;
  const child = spawn(requireProgram('ctr', process.env), ['--address', containerd.address, '-n', 'k8s.io', 'events'], {
    env: { PATH: containerd.path, CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS: '1' },
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  let waiting: { left: number; resolve: (at: number) => void } | undefined;
  createInterface({ input: child.stdout }).on('line', (line) => {
    if (line.includes(' /tasks/start ') && waiting !== undefined) {
      waiting.left -= 1;
      if (waiting.left === 0) {
        waiting.resolve(performance.now());
        waiting = undefined;
      }
    }
  });
  return {
    next: (count) =>
      new Promise((resolve) => {
        waiting = { left: count, resolve };
      }),
    end: () => child.kill(),
  };
}

async function addRuntimeClasses(cluster: Cluster): Promise<void> {
  const { paths } = cluster;
  await installRuntimes({
    dir: join(paths.dir, 'kybernate'),
    containerdConfig: paths.containerdConfig,
    containerdAddress: cluster.containerd.address,
    hostRoot: '/',
    runc: requireProgram('runc', process.env),
    runDir: join(paths.dir, 'run'),
    restart: cluster.restartCommand,
    env: process.env,
    say: () => undefined,
  });
  for (const handler of RUNTIME_HANDLERS) {
    const runtimeClass = { apiVersion: 'node.k8s.io/v1', kind: 'RuntimeClass', metadata: { name: handler }, handler };
    await cluster.kubectl(['create', '-f', '-'], JSON.stringify(runtimeClass));
  }
}

/** A pod that asks for nothing, from its creation at the API server to the start of its container: sandbox and container. */
export const podsSubject: Subject = {
  name: 'pods',
  what: 'start of a plain pod on a real kubelet: runtime class of runc against kybernate (run below `unshare --net`)',
  unit: 'ms',
  rounds: { full: 30, quick: 6 },
  goal: { kind: 'difference', limit: 20 },
  async open() {
    const cluster = await startCluster();
    const pods = new Pods(cluster);
    await cluster.importImages([BUSYBOX]);
    await addRuntimeClasses(cluster);
    const starts = watchStarts(cluster);
    async function start(name: string, runtimeClass: string): Promise<number> {
      const manifest = podManifest(name, 'sleep 1000', {}, { runtimeClass, nodeName: cluster.node });
      const started = starts.next(2);
      const begin = performance.now();
      await pods.run(manifest);
      const took = (await started) - begin;
      await pods.remove(name);
      return took;
    }
    return {
      async round(index) {
        const peer = (): Promise<number> => start(`peer-${index}`, '');
        const ours = (): Promise<number> => start(`ours-${index}`, 'kybernate');
        return index % 2 === 0
          ? { peer: await peer(), ours: await ours() }
          : { ours: await ours(), peer: await peer() };
      },
      async close() {
        starts.end();
        await cluster.close();
      },
    };
  },
};
