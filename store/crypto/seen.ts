/*
 * Which checkpoint of an id was the newest that this node made or has trusted. A signature tells that a checkpoint is
 * genuine, not that it is the last of its name: whoever can write the store could put back an older one of the same id
 * that was removed. A node that has seen the newer one finds it here.
 *
 * One file, a JSON object a line, the newest last. One process writes it.
 * Crash: a line that is cut off counts as none; what it said is lost.
 */
import { appendFile, readFile } from 'node:fs/promises';
import * as z from 'zod';
import { KybernateError } from '../../core/errors.ts';
import { errnoOf, mapDiskFull, writeFileDurably } from '../files.ts';

/** Ids that are remembered: 20 MB of file. The oldest are forgotten. */
const MAX_IDS = 100_000;

const sighting = z.object({
  checkpointId: z.string(),
  /** ISO time of its commit, by the clock of its node */
  createdAt: z.string(),
  merkleRoot: z.string(),
});
export type Sighting = z.output<typeof sighting>;

export interface SeenCheckpoints {
  /** @throws SignatureInvalid when a newer one of this id was seen */
  check(found: Sighting, where: string): Promise<void>;
  record(found: Sighting): Promise<void>;
}

/** @param path the file; made when there is something to say */
export function openSeen(path: string): SeenCheckpoints {
  let loading: Promise<Map<string, Sighting>> | undefined;
  let turn: Promise<unknown> = Promise.resolve();
  let lines = 0;
  const load = (): Promise<Map<string, Sighting>> => {
    loading ??= readAll(path).then((all) => {
      lines = all.length;
      return new Map(all.map((one) => [one.checkpointId, one]));
    });
    return loading;
  };
  async function add(found: Sighting): Promise<void> {
    const seen = await load();
    const before = seen.get(found.checkpointId);
    if (before !== undefined && !isOlder(before, found)) {
      return;
    }
    seen.delete(found.checkpointId);
    seen.set(found.checkpointId, found);
    for (const id of seen.size > MAX_IDS ? seen.keys() : []) {
      seen.delete(id);
      break;
    }
    lines += 1;
    const grown = lines > 2 * seen.size + 1000;
    await (grown ? writeFileDurably(path, [...seen.values()].map(lineOf).join('')) : appendFile(path, lineOf(found)));
    lines = grown ? seen.size : lines;
  }
  return {
    async check(found, where) {
      const newest = (await load()).get(found.checkpointId);
      if (newest !== undefined && newest.merkleRoot !== found.merkleRoot && isOlder(found, newest)) {
        throw new KybernateError(
          'SignatureInvalid',
          `${where} was made at ${found.createdAt}; this node has seen a checkpoint of the same id made at ` +
            `${newest.createdAt}: an older one was put back in its place; nothing of it was used`,
          { details: { found: found.merkleRoot, newest: newest.merkleRoot, seen: path } },
        );
      }
    },
    record(found) {
      // One after the other: an append must not fall into a rewriting.
      const next = turn.then(() => add(found));
      turn = next.catch(() => undefined);
      return next.catch((error: unknown) => {
        throw mapDiskFull(error, path);
      });
    },
  };
}

function isOlder(one: Sighting, other: Sighting): boolean {
  return Date.parse(one.createdAt) < Date.parse(other.createdAt);
}

function lineOf({ checkpointId, createdAt, merkleRoot }: Sighting): string {
  return `${JSON.stringify({ checkpointId, createdAt, merkleRoot })}\n`;
}

async function readAll(path: string): Promise<Sighting[]> {
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') {
      return '';
    }
    throw error;
  });
  return text.split('\n').flatMap((line) => {
    const parsed = sighting.safeParse(jsonOf(line));
    return parsed.success ? [parsed.data] : [];
  });
}

function jsonOf(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    // Only a SyntaxError can arrive: the line was cut off by a crash, or it is the empty one at the end.
    return undefined;
  }
}
