/*
 * Reads an archive of another engine into a directory that is no checkpoint yet. Its files come in any order, so nothing
 * is decided here but what is refused: by name, before it is written.
 */
import { mkdir, open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CRIU_DIR, FS_FILES, LOG_FILES, ORIGIN_DIR } from '../../core/checkpoint/file-names.ts';
import { pathProblem } from '../../core/checkpoint/manifest.ts';
import type { Op } from '../../core/op.ts';
import type { ByteSource } from '../byte-source.ts';
import { writeAll, writeSynced } from '../files.ts';
import { FOREIGN_FILES, FOREIGN_IMAGES, REQUIRED_FILES } from './foreign-files.ts';
import { parseObject, parsePaths } from './json.ts';
import { LayerWriter } from './layer.ts';
import { type ArchiveLimits, FileBudget, refused, shown } from './limits.ts';
import { limited, openPlain } from './plain.ts';
import { nameProblem } from './tar-names.ts';
import { type TarMember, TarStream } from './tar-stream.ts';

const MAX_JSON_BYTES = 16 * 2 ** 20;
const SETUID_OR_SETGID = 0o6000;

export interface Unpacked {
  readonly specText: string;
  readonly config: Readonly<Record<string, unknown>>;
  /** of the archive */
  readonly names: ReadonlySet<string>;
  /** those below origin/ */
  readonly carried: readonly string[];
  /** s since 1970: when the dump was written; 0 when the archive does not say */
  readonly dumpedAtS: number;
  readonly imageBytes: number;
  /** open: volumes and places of mounts are still to come */
  readonly layer: LayerWriter;
  readonly budget: FileBudget;
}

/**
 * @param staging exists and is empty
 * @throws CheckpointCorrupt naming the file, and the required one that is missing
 */
export async function unpackForeign(
  source: ByteSource,
  staging: string,
  limits: ArchiveLimits,
  op: Op,
): Promise<Unpacked> {
  const budget = new FileBudget(limits);
  await mkdir(join(staging, dirname(FS_FILES.rootfsDiff)), { recursive: true, mode: 0o700 });
  const layer = await LayerWriter.open(join(staging, FS_FILES.rootfsDiff), limits, budget);
  try {
    return await new Unpacker({ source, staging, limits, op, layer, budget }).run();
  } catch (error) {
    await layer.close();
    throw error;
  }
}

interface Job {
  readonly source: ByteSource;
  readonly staging: string;
  readonly limits: ArchiveLimits;
  readonly op: Op;
  readonly layer: LayerWriter;
  readonly budget: FileBudget;
}

class Unpacker {
  readonly #job: Job;
  readonly #archive: TarStream;
  readonly #kinds = new Map<string, 'file' | 'directory'>();
  readonly #names = new Set<string>();
  readonly #carried: string[] = [];
  readonly #texts = new Map<string, string>();
  #dumpedAtS = 0;
  #imageBytes = 0;

  constructor(job: Job) {
    this.#job = job;
    this.#archive = new TarStream(job.source, 'it', job.budget);
  }

  async run(): Promise<Unpacked> {
    const { op, source, layer, budget } = this.#job;
    for (let member = await this.#archive.next(); member !== undefined; member = await this.#archive.next()) {
      op.signal.throwIfAborted();
      const name = this.#check(member);
      if (name !== undefined) {
        await this.#take(name, member);
        op.progress({ phase: 'importing', bytesDone: source.position });
      }
    }
    this.#requireAll();
    const deleted = this.#texts.get(FOREIGN_FILES.deletedFiles);
    layer.delete(
      deleted === undefined ? [] : parsePaths(deleted, FOREIGN_FILES.deletedFiles),
      FOREIGN_FILES.deletedFiles,
    );
    return {
      specText: this.#texts.get(FOREIGN_FILES.spec) ?? '',
      config: parseObject(this.#texts.get(FOREIGN_FILES.config) ?? '', FOREIGN_FILES.config),
      names: this.#names,
      carried: this.#carried.sort(),
      dumpedAtS: this.#dumpedAtS,
      imageBytes: this.#imageBytes,
      layer,
      budget,
    };
  }

  #requireAll(): void {
    const missing = REQUIRED_FILES.find((name) => !this.#names.has(name));
    if (missing === undefined) {
      return;
    }
    const isPod = [FOREIGN_FILES.podOptions, FOREIGN_FILES.podDump].some((name) => this.#names.has(name));
    const hint = isPod ? '; it is an archive of a pod: import those of its containers' : '';
    throw refused(`${missing} is missing, without which nothing can be restored${hint}`, { file: missing });
  }

  /** @returns the name of a file; undefined for a directory @throws CheckpointCorrupt */
  #check(member: TarMember): string | undefined {
    const { type, mode } = member;
    const name = Buffer.from(member.name, 'latin1').toString('utf8');
    if (type === 'directory' && name === '') {
      return undefined;
    }
    const isText = Buffer.from(name).toString('latin1') === member.name;
    const problem = isText ? (pathProblem(name) ?? nameProblem(member.name)) : 'is not UTF-8';
    if (problem !== undefined) {
      throw refused(`${shown(member.name)} ${problem}`, { file: name });
    }
    if (type !== 'file' && type !== 'directory') {
      const parent = name === `${FOREIGN_IMAGES}/parent` ? ': it needs the archive of an earlier dump' : '';
      throw refused(`${shown(member.name)} is a ${type}${parent}`, { file: name });
    }
    if (type === 'file' && (mode & SETUID_OR_SETGID) !== 0) {
      throw refused(`${shown(member.name)} has the setuid or the setgid bit`, { file: name });
    }
    if (this.#kinds.has(name) && (type === 'file' || this.#kinds.get(name) === 'file')) {
      throw refused(`${shown(member.name)} is there twice`, { file: name });
    }
    const parts = name.split('/');
    if (parts.some((_, at) => at > 0 && this.#kinds.get(parts.slice(0, at).join('/')) === 'file')) {
      throw refused(`${shown(member.name)} lies below a file`, { file: name });
    }
    for (let at = 1; at < parts.length; at += 1) {
      const parent = parts.slice(0, at).join('/');
      if (!this.#kinds.has(parent)) {
        // A name in the archive makes every directory on the way.
        this.#job.budget.take(parent);
        this.#kinds.set(parent, 'directory');
      }
    }
    this.#kinds.set(name, type);
    return type === 'file' ? name : undefined;
  }

  async #take(name: string, member: TarMember): Promise<void> {
    const { layer, staging, limits, budget } = this.#job;
    this.#names.add(name);
    if (name === FOREIGN_FILES.rootfsDiff) {
      await layer.copy(await this.#plainContent(), name);
    } else if (name === FOREIGN_FILES.devShm) {
      const shm = await LayerWriter.open(join(staging, FS_FILES.devShm), limits, budget);
      try {
        await shm.copy(await this.#plainContent(), name);
        await shm.finish();
      } finally {
        await shm.close();
      }
    } else if (name === FOREIGN_FILES.deletedFiles) {
      this.#texts.set(name, await this.#text(member, name));
    } else if (name === FOREIGN_FILES.spec || name === FOREIGN_FILES.config) {
      const text = await this.#text(member, name);
      this.#texts.set(name, text);
      await mkdir(join(staging, ORIGIN_DIR), { recursive: true, mode: 0o700 });
      await writeSynced(join(staging, ORIGIN_DIR, name), text);
    } else if (name.startsWith(`${FOREIGN_IMAGES}/`)) {
      this.#imageBytes += member.bytes;
      this.#dumpedAtS = name.endsWith('/inventory.img') ? member.mtimeS : this.#dumpedAtS;
      await this.#write(`${CRIU_DIR}/${name.slice(FOREIGN_IMAGES.length + 1)}`);
    } else if (name === FOREIGN_FILES.dumpLog) {
      await this.#write(LOG_FILES.dump);
    } else {
      this.#carried.push(name);
      await this.#write(`${ORIGIN_DIR}/${name}`);
    }
  }

  /** containerd packs the diff once more, whatever its name says. */
  async #plainContent(): Promise<AsyncIterable<Uint8Array>> {
    return limited(await openPlain(this.#archive.content()), this.#job.limits).remaining();
  }

  async #text({ bytes }: TarMember, name: string): Promise<string> {
    if (bytes > MAX_JSON_BYTES) {
      throw refused(`${name} has ${bytes} bytes, more than ${MAX_JSON_BYTES}`, { file: name });
    }
    const pieces: Uint8Array[] = [];
    for await (const piece of this.#archive.content()) {
      pieces.push(Uint8Array.from(piece));
    }
    return Buffer.concat(pieces).toString('utf8');
  }

  async #write(path: string): Promise<void> {
    const file = join(this.#job.staging, path);
    await mkdir(dirname(file), { recursive: true, mode: 0o700 });
    const handle = await open(file, 'wx', 0o600);
    try {
      let position = 0;
      for await (const piece of this.#archive.content()) {
        this.#job.op.signal.throwIfAborted();
        await writeAll(handle, piece, position);
        position += piece.length;
      }
      await handle.datasync();
    } finally {
      await handle.close();
    }
  }
}
