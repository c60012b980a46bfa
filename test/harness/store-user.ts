/*
 * A process that uploads to a store, reads from it, removes and collects, until it is killed:
 *   node store-user.ts <directory of the store> <directory of the sources> <seed> <start of the clock, ms>
 * Its clock, like that of all such processes, goes `SPEED` times as fast as the real one, so that leases run out while
 * somebody looks. Ends with 3 and says why when anything happens that must not.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { OWN_FILES } from '../../core/checkpoint/file-names.ts';
import { parseManifest } from '../../core/checkpoint/manifest.ts';
import { isKybernateError, type ErrorType } from '../../core/errors.ts';
import type { Backend } from '../../store/backend/backend.ts';
import { openLocalBackend } from '../../store/backend/local.ts';
import { fetchCheckpoint } from '../../store/fetch.ts';
import { publishManifest } from '../../store/publish.ts';
import { removeCheckpoint } from '../../store/remove.ts';
import { uploadCheckpoint } from '../../store/upload.ts';
import { testOp } from './checkpoint-dir.ts';
import { collect } from './collect.ts';
import { randomOf } from './interleaving.ts';

/** A lease lasts 6 s; a writer may stand still for 3 s. */
export const SPEED = 600;
const RealDate = Date;

export function fastNow(startMs: number): number {
  return startMs + (RealDate.now() - startMs) * SPEED;
}

function speedUp(startMs: number): void {
  globalThis.Date = class extends RealDate {
    constructor(...args: [] | [number | string]) {
      super(args[0] ?? fastNow(startMs));
    }
    static override now(): number {
      return fastNow(startMs);
    }
  } as DateConstructor;
  const { setInterval: slowInterval, setTimeout: slowTimeout } = globalThis;
  globalThis.setInterval = (act: () => void, ms = 0) => slowInterval(act, ms / SPEED);
  globalThis.setTimeout = ((act: () => void, ms = 0) => slowTimeout(act, ms / SPEED)) as typeof setTimeout;
}

/** The times of a directory are real ones. */
async function openFast(dir: string, startMs: number): Promise<Backend> {
  const backend = await openLocalBackend(dir);
  const list = backend.list.bind(backend);
  backend.list = async function* (prefix, options) {
    for await (const object of list(prefix, options)) {
      yield { ...object, modifiedMs: startMs + (object.modifiedMs - startMs) * SPEED };
    }
  };
  const sweep = backend.sweep.bind(backend);
  backend.sweep = (olderThanMs, options) => sweep(fastNow(startMs) - RealDate.now() + olderThanMs / SPEED, options);
  return backend;
}

/** @returns false when it is worth another try */
async function ending(expected: readonly ErrorType[], act: () => Promise<unknown>): Promise<boolean> {
  try {
    await act();
    return true;
  } catch (error) {
    if (isKybernateError(error) && expected.includes(error.type)) {
      return error.type !== 'StorageUnavailable';
    }
    throw error;
  }
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

async function use(backend: Backend, sources: string, random: () => number): Promise<void> {
  const pick = random();
  const checkpointId = `ck-${'abc'[Math.floor(random() * 3)] ?? 'a'}`;
  const place = join(sources, `${process.pid}-${Math.floor(random() * 1e12)}`);
  const op = testOp();
  if (pick < 0.45) {
    const dir = join(sources, `${checkpointId}-${Math.floor(random() * 2)}`);
    const file = join(dir, OWN_FILES.manifest);
    const manifest = parseManifest(await readFile(file, 'utf8'), file);
    const request = { checkpointId, dir, manifest, backend, op, packBytes: 4000, ledgerPath: `${place}.ledger` };
    const attempt = (): Promise<boolean> =>
      ending(['StorageUnavailable', 'InvalidInput'], async () => {
        await uploadCheckpoint(request);
        await publishManifest(request);
      });
    while (!(await attempt())) {
      await sleep(30_000);
    }
  } else if (pick < 0.65) {
    await ending(['CheckpointNotFound'], () => removeCheckpoint(backend, checkpointId, op));
  } else if (pick < 0.8) {
    await ending(['CheckpointNotFound'], () => fetchCheckpoint({ checkpointId, backend, destDir: place, op }));
  } else {
    await collect(backend, `p${process.pid}x${Math.floor(random() * 1e9)}`, op, sleep);
  }
}

async function main([store = '', sources = '', seed = '', start = '']: readonly string[]): Promise<void> {
  speedUp(Number(start));
  const random = randomOf(Number(seed));
  const backend = await openFast(store, Number(start));
  process.stdout.write('ready\n');
  for (;;) {
    await use(backend, sources, random);
  }
}

if (import.meta.main) {
  main(process.argv.slice(2)).catch((error: unknown) => {
    process.stderr.write(error instanceof Error ? (error.stack ?? error.message) : String(error));
    process.exit(3);
  });
}
