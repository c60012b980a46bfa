import { execFile } from 'node:child_process';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { longestGapMs, monotonicSeconds, NAMESPACE, NODE, openBench } from './environment.ts';
import type { Subject } from './subject.ts';

const MIB = 256;
const ID = 'ticker';
const PYTHON = 'docker.io/kybernate/python:1';

/** The same container is frozen by `runc checkpoint` alone and by us, in turn; its own ticker is the judge. */
export const freezeSubject: Subject = {
  name: 'freeze',
  what: `time that a container with ${MIB} MiB stands still, as its own ticker sees it: runc checkpoint alone, and ours`,
  unit: 'ms',
  rounds: { full: 10, quick: 4 },
  goal: { kind: 'ratio', limit: 1.1 },
  async open() {
    const bench = await openBench([PYTHON], true);
    const workloads = fileURLToPath(new URL('../test/workloads', import.meta.url));
    const mount = `type=bind,src=${workloads},dst=/w,options=rbind:ro`;
    await bench.ctr(
      'run',
      '-d',
      '--null-io',
      '--mount',
      mount,
      PYTHON,
      ID,
      '/usr/bin/python3',
      '/w/ticker.py',
      String(MIB),
    );
    await sleep(3000);
    const pid = await bench.pidOf(ID);
    /**
     * Both start from the same machine: nothing of the other's images is left, nothing waits to be written to the disk,
     * and the memory for new files has been used before.
     */
    async function prime(): Promise<void> {
      const file = join(bench.dir, 'prime');
      await rm(join(bench.dir, 'node', 'checkpoints'), { recursive: true, force: true });
      await rm(join(bench.dir, 'bare'), { recursive: true, force: true });
      await writeFile(file, Buffer.alloc(2 * MIB * 2 ** 20));
      await promisify(execFile)('sync');
      await rm(file);
    }
    async function gap(act: () => Promise<unknown>): Promise<number> {
      await prime();
      const from = monotonicSeconds();
      await act();
      await sleep(100);
      return longestGapMs(pid, from, monotonicSeconds());
    }
    return {
      async round(index) {
        const dir = join(bench.dir, 'bare');
        const peer = (): Promise<number> => gap(() => bench.bareCheckpoint(ID, dir));
        const ours = (): Promise<number> =>
          gap(async () => {
            const handle = await bench.client.checkpoint({
              node: NODE,
              container: { id: ID, namespace: NAMESPACE },
              durability: 'local',
            });
            await handle.result();
          });
        const sample =
          index % 2 === 0 ? { peer: await peer(), ours: await ours() } : { ours: await ours(), peer: await peer() };
        return sample;
      },
      facts: () => ({ memoryMiB: MIB }),
      async close() {
        await bench.remove(ID);
        await bench.close();
      },
    };
  },
};
