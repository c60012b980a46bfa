/*
 * The writable layer of an imported container, put together from what an archive has of it: its diff of the root file
 * system, its volumes, and places for files that its engine had mounted. Every member is looked at and written anew, so
 * that whatever unpacks the result as root meets only clean names, no devices, and no link on the way to a file.
 *
 * Whiteouts of OCI layers (`.wh.name`; `.wh..wh..opq` for all that is in a directory) become names to delete, which a
 * restore does before it unpacks. Source: OCI image-spec, layer.md.
 */
import { open, type FileHandle } from 'node:fs/promises';
import { ByteSource } from '../byte-source.ts';
import { writeAll } from '../files.ts';
import { padding, paxHeader, TAR_END, tarDirectory, tarHeader } from '../tar.ts';
import { type ArchiveLimits, type FileBudget, refused, shown } from './limits.ts';
import { nameProblem } from './tar-names.ts';
import { type MemberType, type TarMember, TarStream } from './tar-stream.ts';

const WHITEOUT = '.wh.';
const OPAQUE = '.wh..wh..opq';
const DEVICES: ReadonlySet<MemberType> = new Set(['character device', 'block device']);
/** What a file may bring beside its content; everything else is left out. */
const KEPT_RECORDS =
  /^(?:path|linkpath|size|[amc]time|[ug]id|[ug]name|SCHILY\.(?:xattr|acl)\..*|GNU\.sparse\.(?:major|minor|name|realsize))$/;
/** They would make the kernel look elsewhere for a file. */
const OVERLAY_ATTRIBUTE = /^(?:SCHILY|LIBARCHIVE)\.xattr\.(?:trusted|user)\.overlay\./;
/** Belongs to the container that is made, not to the one that was. */
const LABEL = 'SCHILY.xattr.security.selinux';

export interface LayerFacts {
  /** byte strings, relative to the root */
  readonly deleted: readonly string[];
  readonly files: number;
  /** files with setuid or setgid: kept, since containers have such files */
  readonly setuid: number;
}

export class LayerWriter {
  readonly #file: FileHandle;
  readonly #limits: Pick<ArchiveLimits, 'allowDevices'>;
  readonly #budget: FileBudget;
  readonly #kinds = new Map<string, MemberType>();
  readonly #deleted = new Set<string>();
  #position = 0;
  #files = 0;
  #setuid = 0;

  private constructor(file: FileHandle, limits: Pick<ArchiveLimits, 'allowDevices'>, budget: FileBudget) {
    this.#file = file;
    this.#limits = limits;
    this.#budget = budget;
  }

  /** Makes the file, which must not be there. */
  static async open(
    path: string,
    limits: Pick<ArchiveLimits, 'allowDevices'>,
    budget: FileBudget,
  ): Promise<LayerWriter> {
    return new LayerWriter(await open(path, 'wx', 0o600), limits, budget);
  }

  /**
   * Copies a plain tar archive.
   * @param below directory of the container that its names are in; empty for its root
   * @throws CheckpointCorrupt naming the member
   */
  async copy(pieces: AsyncIterable<Uint8Array>, what: string, below = ''): Promise<void> {
    const problem = below === '' ? undefined : nameProblem(below);
    if (problem !== undefined) {
      throw refused(`the place ${shown(below)} of ${what} ${problem}`);
    }
    const seen = new Set<string>();
    const archive = new TarStream(new ByteSource(pieces), what, this.#budget);
    for (let member = await archive.next(); member !== undefined; member = await archive.next()) {
      const name = this.#place(member, what, below);
      const gone = deletedBy(name);
      if (gone !== undefined) {
        this.#deleted.add(gone);
        continue;
      }
      if (seen.has(name)) {
        throw refused(`${what} has ${shown(name)} twice`);
      }
      seen.add(name);
      await this.#begin(member, name, below);
      for await (const piece of archive.content()) {
        await this.#write(piece);
      }
      await this.#write(padding(member.bytes));
    }
  }

  /** @throws CheckpointCorrupt the archive has a link on the way to it */
  async addFile(name: string, content: Uint8Array, mode = 0o644): Promise<void> {
    this.#claim(name, 'file');
    await this.#write(tarHeader({ name, bytes: content.length, mtimeS: 0, mode }));
    await this.#write(content);
    await this.#write(padding(content.length));
  }

  /** As `addFile`. */
  async addDirectory(name: string, mode: number): Promise<void> {
    this.#claim(name, 'directory');
    await this.#write(tarDirectory(name, 0, mode));
  }

  /** Permissions of the root directory itself. */
  async setRoot(mode: number): Promise<void> {
    await this.#write(tarDirectory('.', 0, mode));
  }

  #claim(name: string, kind: MemberType): void {
    const bytes = Buffer.from(name).toString('latin1');
    if (nameProblem(bytes) !== undefined) {
      throw refused(`a mount at ${shown(bytes)}, which ${nameProblem(bytes)}`);
    }
    this.#checkParents(bytes, 'the archive');
    this.#kinds.set(bytes, kind);
  }

  /** Names of a list beside the layer, as absolute paths of the container or relative to its root. */
  delete(names: readonly string[], what: string): void {
    for (const text of names) {
      const name = text.replace(/^\/+/, '').replace(/\/+$/, '');
      if (name === '' || nameProblem(name) !== undefined) {
        throw refused(`${what} names ${shown(text)}, which is no path below the root`);
      }
      this.#deleted.add(name);
    }
  }

  async finish(): Promise<LayerFacts> {
    await this.#write(TAR_END);
    await this.#file.datasync();
    return { deleted: [...this.#deleted].sort(), files: this.#files, setuid: this.#setuid };
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  /** Where the member goes. @throws CheckpointCorrupt */
  #place(member: TarMember, what: string, below: string): string {
    const problem = member.name === '' ? undefined : nameProblem(member.name);
    if (problem !== undefined) {
      throw refused(`${shown(member.name)} in ${what} ${problem}`);
    }
    if (member.name === '' && member.type !== 'directory') {
      throw refused(`the root of ${what} is a ${member.type}`);
    }
    if (DEVICES.has(member.type) && !this.#limits.allowDevices) {
      throw refused(`${shown(member.name)} in ${what} is a ${member.type} (--allow-devices)`);
    }
    const bad = [...member.records.keys()].find((key) => OVERLAY_ATTRIBUTE.test(key));
    if (bad !== undefined) {
      throw refused(`${shown(member.name)} in ${what} has the attribute ${shown(bad)}, which overlayfs would follow`);
    }
    const name = joined(below, member.name);
    this.#checkParents(name, what);
    if (member.type === 'hardlink') {
      const target = member.link.replace(/^(?:\.\/+)+/, '');
      if (nameProblem(target) !== undefined) {
        throw refused(`${shown(member.name)} in ${what} is a link to ${shown(member.link)}, out of the archive`);
      }
      this.#checkParents(joined(below, target), what);
    }
    return name;
  }

  /** A link on the way would lead whoever unpacks it somewhere else. */
  #checkParents(name: string, what: string): void {
    for (let slash = name.indexOf('/'); slash !== -1; slash = name.indexOf('/', slash + 1)) {
      const parent = name.slice(0, slash);
      const kind = this.#kinds.get(parent) ?? 'directory';
      if (kind !== 'directory') {
        throw refused(`${shown(name)} in ${what} leads through ${shown(parent)}, which is a ${kind}`);
      }
    }
  }

  async #begin(member: TarMember, name: string, below: string): Promise<void> {
    this.#files += 1;
    this.#setuid += member.type === 'file' && (member.mode & 0o6000) !== 0 ? 1 : 0;
    this.#kinds.set(name, member.type);
    const records = new Map(
      [...member.records].filter(([key]) => KEPT_RECORDS.test(key) && key !== LABEL && key !== 'GNU.sparse.name'),
    );
    if (below !== '' || name === '' || records.has('path')) {
      records.set('path', name === '' ? './' : name);
    }
    if (member.records.has('GNU.sparse.name')) {
      records.set('GNU.sparse.name', name);
    }
    if (member.type === 'hardlink' && below !== '') {
      records.set('linkpath', joined(below, member.link.replace(/^(?:\.\/+)+/, '')));
    }
    if (records.size > 0) {
      await this.#write(paxHeader(records));
    }
    await this.#write(member.header);
  }

  async #write(bytes: Uint8Array): Promise<void> {
    await writeAll(this.#file, bytes, this.#position);
    this.#position += bytes.length;
  }
}

function joined(below: string, name: string): string {
  return below === '' ? name : name === '' ? below : `${below}/${name}`;
}

/** The name that a whiteout deletes; undefined for an ordinary member. */
function deletedBy(name: string): string | undefined {
  const slash = name.lastIndexOf('/') + 1;
  const base = name.slice(slash);
  if (base === OPAQUE) {
    return name.slice(0, Math.max(0, slash - 1)) || undefined;
  }
  const gone = base.startsWith(WHITEOUT) ? base.slice(WHITEOUT.length) : '';
  return gone === '' || gone === '.' || gone === '..' ? undefined : name.slice(0, slash) + gone;
}

/** The list of deleted names as a checkpoint has it: text where they are UTF-8, else their bytes. */
export function deletedText(names: readonly string[]): string {
  const list = names.map((name) => {
    const bytes = Buffer.from(name, 'latin1');
    const text = bytes.toString('utf8');
    return Buffer.from(text).equals(bytes) ? text : { base64: bytes.toString('base64') };
  });
  return `${JSON.stringify(list)}\n`;
}
