import { execFile } from 'node:child_process';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { type BenchEnvironment, longestGapMs, monotonicSeconds, NAMESPACE, NODE, openBench } from './environment.ts';
import type { Subject } from './subject.ts';

const MIB = 256;
const ID = 'ticker';
export const PYTHON = 'docker.io/kybernate/python:1';

export interface Ticker {
  /** longest time that the container stands still while `act` runs, in ms, as its own ticker sees it */
  gap(act: () => Promise<unknown>): Promise<number>;
  /** a checkpoint of ours, up to its commit on this node */
  checkpoint(): Promise<unknown>;
  remove(): Promise<void>;
}

/** A container with memory of this size that writes down when it runs. */
export async function openTicker(bench: BenchEnvironment, mib: number): Promise<Ticker> {
  const workloads = fileURLToPath(new URL('../test/workloads', import.meta.url));
  const mount = `type=bind,src=${workloads},dst=/w,options=rbind:ro`;
  const command = ['/usr/bin/python3', '/w/ticker.py', String(mib)];
  await bench.ctr('run', '-d', '--null-io', '--mount', mount, PYTHON, ID, ...command);
  await sleep(3000);
  const pid = await bench.pidOf(ID);
  /**
   * All start from the same machine: nothing of another's images is left, nothing waits to be written to the disk, and the
   * memory for new files has been used before.
   */
  async function prime(): Promise<void> {
    const file = join(bench.dir, 'prime');
    await rm(join(bench.dir, 'node', 'checkpoints'), { recursive: true, force: true });
    await rm(join(bench.dir, 'bare'), { recursive: true, force: true });
    await writeFile(file, Buffer.alloc(2 * mib * 2 ** 20));
    await promisify(execFile)('sync');
    await rm(file);
  }
  return {
    async gap(act) {
      await prime();
      const from = monotonicSeconds();
      await act();
      await sleep(100);
      return longestGapMs(pid, from, monotonicSeconds());
    },
    async checkpoint() {
      const container = { id: ID, namespace: NAMESPACE };
      return (await bench.client.checkpoint({ node: NODE, container, durability: 'local' })).result();
    },
    remove: () => bench.remove(ID),
  };
}

/** The same container is frozen by `runc checkpoint` alone and by us, in turn; its own ticker is the judge. */
export const freezeSubject: Subject = {
  name: 'freeze',
  what: `time that a container with ${MIB} MiB stands still, as its own ticker sees it: runc checkpoint alone, and ours`,
  unit: 'ms',
  rounds: { full: 10, quick: 4 },
  goal: { kind: 'ratio', limit: 1.1 },
  async open() {
    const bench = await openBench([PYTHON], true);
    const ticker = await openTicker(bench, MIB);
    return {
      async round(index) {
        const peer = (): Promise<number> => ticker.gap(() => bench.bareCheckpoint(ID, join(bench.dir, 'bare')));
        const ours = (): Promise<number> => ticker.gap(() => ticker.checkpoint());
        return index % 2 === 0
          ? { peer: await peer(), ours: await ours() }
          : { ours: await ours(), peer: await peer() };
      },
      facts: () => ({ memoryMiB: MIB }),
      async close() {
        await ticker.remove();
        await bench.close();
      },
    };
  },
};
