import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Run } from '../native/run/run.ts';
import { dumpableBytes } from '../native/proc/maps.ts';
import type { ProcessSurvey } from './analysis-process.ts';
import type { ContainerFacts } from './container-facts.ts';

/** Room for CRIU's metadata and the archive's headers. */
const FIXED_BYTES = 16 * 1024 * 1024;

/** What a checkpoint of the container will take on disk, roughly: memory, its own layer, its tmpfs, deleted files. */
export async function estimateBytes(
  run: Run,
  facts: ContainerFacts,
  surveys: readonly ProcessSurvey[],
): Promise<number> {
  const memory = facts.processes.reduce((sum, process) => sum + dumpableBytes(process.hostPid), 0);
  // deleted files are copied into CRIU's images, those with another name are in the layer
  const ghosts = surveys
    .flatMap((survey) => survey.deletedFiles)
    .reduce((sum, file) => sum + (file.links > 0 ? 0 : file.bytes), 0);
  const layer = facts.upperDir === undefined ? [] : [facts.upperDir];
  const inside = facts.mounts
    .filter((mount) => mount.captured && mount.type === 'tmpfs')
    .map((mount) => `/proc/${facts.initHostPid}/root${mount.destination}`);
  return FIXED_BYTES + memory + ghosts + ((await diskUsage(run, [...layer, ...inside])) ?? 0);
}

/** Undefined when they could not be measured in a minute. */
export async function diskUsage(run: Run, dirs: readonly string[]): Promise<number | undefined> {
  return totalOf(run, ['--block-size=1'], dirs);
}

async function totalOf(run: Run, unit: readonly string[], dirs: readonly string[]): Promise<number | undefined> {
  if (dirs.length === 0) {
    return 0;
  }
  const args = ['--summarize', '--total', '--one-file-system', ...unit, '--', ...dirs];
  // a file that goes while du looks makes its exit code 1; the total stands
  const result = await run('du', args, { timeoutMs: 60_000 });
  const total = /^(\d+)\ttotal$/m.exec(result.stdout)?.[1];
  return total === undefined ? undefined : Number(total);
}

/** What tar writes of a file beside its content: two headers and the exact times, and what fills the last block. */
const TAR_ENTRY_BYTES = 2048;

/** What an archive of directories takes; as `diskUsage`. An empty file takes no room on a disk, but some in an archive. */
export async function archiveBytes(run: Run, dirs: readonly string[]): Promise<number | undefined> {
  const bytes = await diskUsage(run, dirs);
  const files = bytes === undefined ? undefined : await totalOf(run, ['--inodes'], dirs);
  return bytes === undefined || files === undefined ? undefined : bytes + files * TAR_ENTRY_BYTES;
}

/** Of the files of one directory, by their length. */
export async function directoryBytes(dir: string): Promise<number> {
  const names = await readdir(dir);
  const sizes = await Promise.all(names.map(async (name) => (await stat(join(dir, name))).size));
  return sizes.reduce((sum, size) => sum + size, 0);
}
