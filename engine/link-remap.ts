/*
 * CRIU links a file that is open and has no name any more as `link_remap.<number>` beside where it was, and removes the
 * link when its dump ends. One that is killed leaves it in the container. The container runs while its files are looked
 * through, and may put a link in place of any of them: each directory is held by its descriptor, and no link is followed.
 */
import { constants } from 'node:fs';
import { lstat, open, opendir, unlink, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import type { OperationPlan } from './operation.ts';

/** Source: criu/files-reg.c, create_link_remap. */
const LINK = /^link_remap\.\d+$/;
/** The clock of files is coarser than that of the journal. */
const CLOCK_MS = 10;
/** A container may have any number of files, and an operation waits for this. */
const WALK_MS = 5000;
/** Each level holds two descriptors. */
const DEEPEST = 128;

const DIRECTORY = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;

export interface RemovedLinks {
  /** paths */
  readonly removed: readonly string[];
  /** false: the time was over before every directory was looked at, or one was too deep */
  readonly isWhole: boolean;
}

interface Walk {
  readonly sinceMs: number;
  readonly untilMs: number;
  readonly removed: string[];
  isWhole: boolean;
}

/**
 * Removes what the dump of this operation has left; the caller has ended CRIU. Files that are older than the operation are
 * the container's own: a link sets the time of change.
 */
export async function removeLinkRemaps(
  plan: Pick<OperationPlan, 'facts' | 'analysis'>,
  sinceMs: number,
  walkMs = WALK_MS,
): Promise<RemovedLinks> {
  const { upperDir } = plan.facts;
  const walk: Walk = {
    sinceMs: sinceMs - CLOCK_MS,
    untilMs: performance.now() + walkMs,
    removed: [],
    isWhole: true,
  };
  if (upperDir !== undefined && plan.analysis.linkRemap) {
    await removeIn(walk, { open: upperDir, shown: upperDir }, 0);
  }
  return walk;
}

/** @param dir `open`: its name in the descriptor of the one above; `shown`: where it was when it was found */
async function removeIn(
  walk: Walk,
  dir: { readonly open: string; readonly shown: string },
  depth: number,
): Promise<void> {
  const handle = await openDirectory(dir.open);
  if (handle === undefined) {
    return;
  }
  try {
    const held = `/proc/self/fd/${handle.fd}`;
    for await (const entry of await opendir(held)) {
      if (performance.now() >= walk.untilMs) {
        walk.isWhole = false;
        return;
      }
      const inside = { open: join(held, entry.name), shown: join(dir.shown, entry.name) };
      if (entry.isDirectory() && depth < DEEPEST) {
        await removeIn(walk, inside, depth + 1);
      } else if (entry.isDirectory()) {
        walk.isWhole = false;
      } else if (entry.isFile() && LINK.test(entry.name) && (await unlinkNew(inside.open, walk.sinceMs))) {
        walk.removed.push(inside.shown);
      }
    }
  } finally {
    await handle.close();
  }
}

/** @returns undefined when it has gone, or is something else now */
async function openDirectory(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, DIRECTORY);
  } catch (error) {
    return ignoreChanged(error);
  }
}

/** @returns was it removed? */
async function unlinkNew(path: string, sinceMs: number): Promise<boolean> {
  try {
    if ((await lstat(path)).ctimeMs < sinceMs) {
      return false;
    }
    await unlink(path);
    return true;
  } catch (error) {
    return ignoreChanged(error) ?? false;
  }
}

/** The container runs, and may remove and replace its files. ELOOP, ENOTDIR: a link stands where a directory was. */
function ignoreChanged(error: unknown): undefined {
  if (!['ENOENT', 'ENOTDIR', 'ELOOP', 'EISDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) {
    throw error;
  }
}
