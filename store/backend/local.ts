/*
 * A directory as a store, on a disk or a shared file system: a key is a path below it. Temporary files lie in `.tmp`,
 * which no key can name. Everything is for one user alone (0700, 0600): the packs are memory of containers. That user is
 * the owner of the directory, also when root writes into it: a store that the sidecar uses stays the sidecar's.
 */
import { randomBytes } from 'node:crypto';
import type { Dirent, Stats } from 'node:fs';
import { chown, open, readdir, rename, rm, stat, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { KybernateError, messageOf } from '../../core/errors.ts';
import { errnoOf, isDiskFull, linkIfAbsent, makeDirsDurably, syncDir, writeSynced } from '../files.ts';
import {
  checkKey,
  type Backend,
  type ByteRange,
  type CallOptions,
  type GetOptions,
  type ObjectInfo,
} from './backend.ts';
import { memoryOf } from './received.ts';

const TEMPORARY_DIR = '.tmp';

/**
 * Opens the directory `root`, making it if its parent allows.
 * @param url what it is called in messages and results, where `root` is only how it is reached
 * @throws StorageDenied, StorageUnavailable, DiskFull when it cannot be made or written
 */
export async function openLocalBackend(root: string, url = pathToFileURL(root).href): Promise<Backend> {
  const owner = await attempt(root, async () => {
    await makeDirsDurably(root);
    const foreign = await ownerOf(root);
    await makeOwnedDirs(join(root, TEMPORARY_DIR), foreign);
    return foreign;
  });
  return new LocalBackend(root, url, owner, join(root, TEMPORARY_DIR));
}

/**
 * Opens a directory that must be there, and makes nothing: a mistyped or unmounted store is told, and stays as it is.
 * @throws StorageUnavailable there is no such directory; StorageDenied
 */
export async function openExistingLocalBackend(root: string, url = pathToFileURL(root).href): Promise<Backend> {
  return attempt(root, async () => {
    try {
      const temporary = join(root, TEMPORARY_DIR);
      return new LocalBackend(root, url, await ownerOf(root), (await isThere(temporary)) ? temporary : root);
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') {
        throw error;
      }
      const remedy = 'check its address, and whether it is mounted; the first upload to it makes it';
      throw new KybernateError('StorageUnavailable', `there is no store at ${url}; ${remedy}`, {
        details: { store: url, remedy },
        cause: error,
      });
    }
  });
}

async function ownerOf(root: string): Promise<Owner> {
  const { uid, gid } = await stat(root);
  return process.geteuid?.() === 0 && uid !== 0 ? { uid, gid } : undefined;
}

async function isThere(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') {
      throw error;
    }
    return false;
  }
}

/** Whose store root writes into; undefined when it is its own, or another user writes as himself. */
type Owner = { readonly uid: number; readonly gid: number } | undefined;

async function makeOwnedDirs(path: string, owner: Owner): Promise<void> {
  const first = await makeDirsDurably(path);
  if (owner === undefined || first === undefined) {
    return;
  }
  for (let dir = path; dir.length >= first.length; dir = dirname(dir)) {
    await chown(dir, owner.uid, owner.gid);
  }
}

class LocalBackend implements Backend {
  readonly url: string;
  readonly #root: string;
  readonly #owner: Owner;
  /** what is there as long as the store is mounted */
  readonly #witness: string;

  constructor(root: string, url: string, owner: Owner, witness: string) {
    this.#root = root;
    this.url = url;
    this.#owner = owner;
    this.#witness = witness;
  }

  async put(key: string, bytes: Uint8Array, { signal }: CallOptions = {}): Promise<void> {
    const path = this.#path(key, signal);
    await attempt(path, async () => {
      const temporary = await this.#writeTemporary(path, bytes);
      await rename(temporary, path);
      await syncDir(dirname(path));
    });
  }

  async putIfAbsent(key: string, bytes: Uint8Array, { signal }: CallOptions = {}): Promise<boolean> {
    const path = this.#path(key, signal);
    return attempt(path, async () => linkIfAbsent(await this.#writeTemporary(path, bytes), path));
  }

  async get(key: string, options: GetOptions = {}): Promise<Uint8Array | undefined> {
    const path = this.#path(key, options.signal);
    return this.#unlessAbsent(path, async () => {
      const handle = await open(path, 'r');
      try {
        const { size } = await handle.stat();
        const { start, end } = clip(options.range, size);
        const buffer = memoryOf(end - start, options.into);
        let done = 0;
        while (done < buffer.length) {
          const { bytesRead } = await handle.read(buffer, done, buffer.length - done, start + done);
          if (bytesRead === 0) {
            throw new KybernateError('StorageUnavailable', `${path} became shorter while it was read`);
          }
          done += bytesRead;
        }
        return buffer;
      } finally {
        await handle.close();
      }
    });
  }

  async head(key: string, { signal }: CallOptions = {}): Promise<ObjectInfo | undefined> {
    const path = this.#path(key, signal);
    return this.#unlessAbsent(path, async () => toInfo(key, await stat(path)));
  }

  async *list(prefix: string, options: CallOptions & { readonly after?: string } = {}): AsyncGenerator<ObjectInfo> {
    const slash = prefix.lastIndexOf('/');
    yield* this.#walk(slash === -1 ? '' : checkKey(prefix.slice(0, slash)), prefix, options);
  }

  async delete(key: string, { signal }: CallOptions = {}): Promise<void> {
    const path = this.#path(key, signal);
    await this.#unlessAbsent(path, async () => {
      await unlink(path);
      await syncDir(dirname(path));
    });
  }

  async sweep(olderThanMs: number, { signal }: CallOptions = {}): Promise<number> {
    let removed = 0;
    for (const name of await attempt(this.#root, () => readdir(join(this.#root, TEMPORARY_DIR)))) {
      signal?.throwIfAborted();
      const path = join(this.#root, TEMPORARY_DIR, name);
      const info = await this.#unlessAbsent(path, () => stat(path));
      if (info !== undefined && info.mtimeMs <= Date.now() - olderThanMs) {
        await attempt(path, () => rm(path, { force: true }));
        removed += 1;
      }
    }
    return removed;
  }

  async close(): Promise<void> {
    // Nothing is kept open between calls.
  }

  #path(key: string, signal: AbortSignal | undefined): string {
    signal?.throwIfAborted();
    return join(this.#root, checkKey(key));
  }

  async #writeTemporary(path: string, bytes: Uint8Array): Promise<string> {
    await makeOwnedDirs(dirname(path), this.#owner);
    if (this.#witness === this.#root) {
      await makeOwnedDirs(join(this.#root, TEMPORARY_DIR), this.#owner);
    }
    const temporary = join(this.#root, TEMPORARY_DIR, randomBytes(12).toString('hex'));
    await writeSynced(temporary, bytes);
    if (this.#owner !== undefined) {
      await chown(temporary, this.#owner.uid, this.#owner.gid);
    }
    return temporary;
  }

  /** "No such file" counts as absent only while the store itself is there: an unmounted store has lost nothing. */
  async #unlessAbsent<Result>(path: string, act: () => Promise<Result>): Promise<Result | undefined> {
    return attempt(path, async () => {
      try {
        return await act();
      } catch (error) {
        if (errnoOf(error) !== 'ENOENT') {
          throw error;
        }
        await stat(this.#witness);
        return undefined;
      }
    });
  }

  async *#walk(
    dir: string,
    prefix: string,
    { signal, after }: CallOptions & { readonly after?: string },
  ): AsyncGenerator<ObjectInfo> {
    const path = join(this.#root, dir);
    const found = await this.#unlessAbsent(path, () => readdir(path, { withFileTypes: true }));
    // A directory sorts as its name and "/", as the keys below it do.
    const names = (found ?? [])
      .filter((entry) => !entry.name.startsWith('.'))
      .map((entry): [string, Dirent] => [entry.isDirectory() ? `${entry.name}/` : entry.name, entry])
      .sort(([left], [right]) => (left < right ? -1 : 1));
    for (const [name, entry] of names) {
      signal?.throwIfAborted();
      const key = dir === '' ? name : `${dir}/${name}`;
      const wanted = entry.isDirectory() ? key.startsWith(prefix) || prefix.startsWith(key) : key.startsWith(prefix);
      const behind = after === undefined || key > after || (entry.isDirectory() && after.startsWith(key));
      if (!wanted || !behind) {
        continue;
      }
      if (entry.isDirectory()) {
        yield* this.#walk(
          key.slice(0, -1),
          prefix,
          after === undefined ? withSignal(signal) : { after, ...withSignal(signal) },
        );
        continue;
      }
      const info = await this.#unlessAbsent(key, () => stat(join(this.#root, key)));
      if (info !== undefined) {
        yield toInfo(key, info);
      }
    }
  }
}

function withSignal(signal: AbortSignal | undefined): CallOptions {
  return signal === undefined ? {} : { signal };
}

function clip(range: ByteRange | undefined, size: number): { start: number; end: number } {
  if (range === undefined) {
    return { start: 0, end: size };
  }
  if ('last' in range) {
    return { start: Math.max(0, size - range.last), end: size };
  }
  const start = Math.min(range.offset, size);
  return { start, end: Math.min(size, start + range.bytes) };
}

function toInfo(key: string, info: Stats): ObjectInfo {
  return { key, bytes: info.size, modifiedMs: info.mtimeMs };
}

async function attempt<Result>(path: string, act: () => Promise<Result>): Promise<Result> {
  try {
    return await act();
  } catch (error) {
    if (error instanceof KybernateError) {
      throw error;
    }
    const denied = ['EACCES', 'EPERM', 'EROFS', 'EEXIST', 'ENOTDIR', 'EISDIR', 'ELOOP'].includes(errnoOf(error) ?? '');
    const type = isDiskFull(error) ? 'DiskFull' : denied ? 'StorageDenied' : 'StorageUnavailable';
    throw new KybernateError(type, `the store at ${path} failed: ${messageOf(error)}`, { cause: error });
  }
}
