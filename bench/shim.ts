import { listProcesses } from '../native/proc/tree.ts';
import { openBench } from './environment.ts';
import type { Subject } from './subject.ts';

const BUSYBOX = 'docker.io/kybernate/busybox:1';

/** A container that asks for nothing: the stock shim, and the same through our launcher and wrapper. */
export const shimSubject: Subject = {
  name: 'shim',
  what: 'ctr run -d of a plain container: io.containerd.runc.v2 against io.containerd.runc.kybernate.v1',
  unit: 'ms',
  rounds: { full: 20, quick: 6 },
  goal: { kind: 'difference', limit: 15 },
  async open() {
    const bench = await openBench([BUSYBOX], false);
    let residentProcesses = 0;
    async function start(runtime: string, id: string): Promise<number> {
      const startedAt = performance.now();
      await bench.ctr('run', '-d', '--null-io', '--runtime', runtime, BUSYBOX, id, '/bin/sleep', '1000');
      const took = performance.now() - startedAt;
      residentProcesses = listProcesses().filter(({ commandLine }) =>
        /kybernate-(wrapper|runc|shim)/.test(commandLine),
      ).length;
      await bench.remove(id);
      return took;
    }
    return {
      async round(index) {
        const peer = (): Promise<number> => start('io.containerd.runc.v2', `stock-${index}`);
        const ours = (): Promise<number> => start('io.containerd.runc.kybernate.v1', `ours-${index}`);
        return index % 2 === 0
          ? { peer: await peer(), ours: await ours() }
          : { ours: await ours(), peer: await peer() };
      },
      facts: () => ({ residentProcesses }),
      close: () => bench.close(),
    };
  },
};
