/* A file of a terabyte with a little in it: described, stored and fetched; what is judged is the memory. */
import { randomFillSync } from 'node:crypto';
import { mkdir, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { BenchOptions, Row } from './report.ts';
import { startSubject } from './subject-process.ts';

const IMAGE_BYTES = 2 ** 40;
const BLOCK_BYTES = 2 ** 20;
const MEMORY_GOAL_MIB = 256;

/** `mib` of data, a MiB at a time, at even distances in a file of a TiB. */
export async function sparseBench({ mib, dir, bundle, say }: BenchOptions): Promise<Row[]> {
  const image = join(dir, 'image');
  await mkdir(join(image, 'criu'), { recursive: true });
  const file = await open(join(image, 'criu/sparse.img'), 'wx');
  await file.truncate(IMAGE_BYTES);
  const block = Buffer.alloc(BLOCK_BYTES);
  for (let number = 0; number < mib; number += 1) {
    await file.write(randomFillSync(block), 0, BLOCK_BYTES, Math.floor((number * IMAGE_BYTES) / mib));
  }
  await file.close();
  const store = { url: `file://${join(dir, 'store')}` };
  const rows: Row[] = [];
  for (const command of [
    { do: 'commit', dir: image, id: 'ck-1' },
    { do: 'upload', dir: image, id: 'ck-1', store, codec: 'zstd' },
    { do: 'download', dir: join(dir, 'fetched'), id: 'ck-1', store },
  ] as const) {
    const subject = startSubject(bundle);
    const { ms, cpuMs, maxRssMiB } = await subject.run(command);
    await subject.close();
    const goal = `<= ${MEMORY_GOAL_MIB} MiB`;
    const row = {
      name: command.do,
      goal,
      holds: maxRssMiB <= MEMORY_GOAL_MIB,
      imageMiB: IMAGE_BYTES / 2 ** 20,
      dataMiB: mib,
    };
    rows.push({ ...row, maxRssMiB, ms: Math.round(ms), cpuMs: Math.round(cpuMs) });
    say(JSON.stringify(rows.at(-1)));
  }
  await rm(join(dir, 'fetched'), { recursive: true, force: true });
  return rows;
}
