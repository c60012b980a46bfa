/* One `up` or `down` at a time for a directory: a file that names its holder; a dead holder's file is taken over. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as z from 'zod';

import { KybernateError } from '../../core/errors.ts';
import { isAlive, readProcStat } from './process.ts';

const holder = z.object({ pid: z.int().positive(), startTicks: z.string() });

function readHolder(file: string): z.infer<typeof holder> | undefined {
  try {
    return holder.parse(JSON.parse(readFileSync(file, 'utf8')));
  } catch {
    // Gone meanwhile, or its writer died in the middle: nobody holds it.
    return undefined;
  }
}

/**
 * Runs `work` while no other process does so for the same directory.
 * @throws Incompatible naming the holder
 * Crash: the file stays and names a dead process, which the next caller sees.
 */
export async function withDevLock<T>(dir: string, work: () => Promise<T>): Promise<T> {
  mkdirSync(dir, { recursive: true });
  const file = join(dir, 'lock.json');
  const own = JSON.stringify({ pid: process.pid, startTicks: readProcStat(process.pid)?.startTicks ?? '' });
  for (let attempt = 0; ; attempt += 1) {
    try {
      writeFileSync(file, own, { flag: 'wx', mode: 0o600 });
      break;
    } catch (error) {
      const current = readHolder(file);
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST' || attempt > 2 || (current && isAlive(current))) {
        const who = current === undefined ? '' : `; process ${current.pid} is at it`;
        throw new KybernateError('Incompatible', `cannot change the dev environment ${dir} now${who}`, {
          cause: error,
        });
      }
      rmSync(file, { force: true });
    }
  }
  try {
    return await work();
  } finally {
    rmSync(file, { force: true });
  }
}
