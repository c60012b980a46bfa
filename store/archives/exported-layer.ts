/*
 * The writable layer as others want it: one tar of what was added and changed, the files that CRIU needs for open files
 * without a name among them; deleted names as a list (Podman), or as whiteouts in the tar (containerd).
 *
 * Podman unpacks first and deletes then, we the other way round: a directory that was emptied and filled again is in both
 * of ours, and would lose what it holds now.
 */
import { rootMode } from '../../core/checkpoint/criu-image.ts';
import { CRIU_DIR, FS_FILES } from '../../core/checkpoint/file-names.ts';
import type { ManifestFile } from '../../core/checkpoint/manifest.ts';
import { KybernateError } from '../../core/errors.ts';
import { ByteSource } from '../byte-source.ts';
import type { CheckpointCopy } from '../copy.ts';
import { paxHeader, padding, TAR_END, tarDirectory, tarHeader } from '../tar.ts';
import { type ExportedFile, type ExportFormat, madeFile, bytesOf, textOf } from './exported-file.ts';
import { FOREIGN_FILES } from './foreign-files.ts';
import { DEFAULT_LIMITS, FileBudget, shown } from './limits.ts';
import { TarStream } from './tar-stream.ts';

const FILES_IMAGE = `${CRIU_DIR}/files.img`;

export interface ExportedLayer {
  readonly files: readonly ExportedFile[];
  readonly warnings: readonly string[];
}

export async function exportedLayer(copy: CheckpointCopy, format: ExportFormat): Promise<ExportedLayer> {
  const sources = [FS_FILES.rootfsDiff, FS_FILES.linkRemap].flatMap(
    (path) => copy.manifest.files.find((file) => file.path === path) ?? [],
  );
  const deleted = await deletedNames(copy);
  // An imported layer has some names twice, of which the last counts; other readers refuse that.
  const names = new Map<string, number>();
  for await (const _header of members(copy, sources, (name, at) => {
    names.set(name, at);
    return false;
  })) {
    // only the names are wanted
  }
  const root = format === 'podman' || !names.has('') ? await rootDirectory(copy, format) : [];
  const isLast = (name: string, at: number): boolean => names.get(name) === at && (name !== '' || root.length === 0);
  let bytes = 0;
  for await (const piece of members(copy, sources, isLast)) {
    bytes += piece.length;
  }
  const lost = deleted.filter((name) => names.has(name));
  const gone = deleted.filter((name) => !names.has(name));
  const extra = Buffer.concat([...(format === 'cri' ? [...gone.map(whiteout), ...lost.map(opaque)] : []), ...root]);
  const layer: ExportedFile = {
    path: FOREIGN_FILES.rootfsDiff,
    bytes: bytes + extra.length + TAR_END.length,
    content: async function* () {
      yield* members(copy, sources, isLast);
      yield extra;
      yield TAR_END;
    },
  };
  if (format === 'cri') {
    return { files: [layer], warnings: [] };
  }
  const list = JSON.stringify(gone.map((name) => `/${Buffer.from(name, 'latin1').toString('utf8')}`));
  return {
    files: [layer, ...(gone.length === 0 ? [] : [madeFile(FOREIGN_FILES.deletedFiles, list)])],
    warnings: lost.map((name) => `${shown(name)} was emptied or replaced: what the image has there shows again`),
  };
}

/** Headers and contents of members, without the ends of the archives. @param isWanted gets name and number of each */
async function* members(
  copy: CheckpointCopy,
  files: readonly ManifestFile[],
  isWanted: (name: string, at: number) => boolean,
): AsyncGenerator<Uint8Array> {
  let at = 0;
  for (const file of files) {
    const archive = new TarStream(new ByteSource(copy.read(file)), file.path, new FileBudget(DEFAULT_LIMITS));
    for (let member = await archive.next(); member !== undefined; member = await archive.next()) {
      at += 1;
      if (!isWanted(member.name, at)) {
        continue;
      }
      if (member.records.size > 0) {
        yield paxHeader(member.records);
      }
      yield member.header;
      yield* archive.content();
      yield padding(member.bytes);
    }
  }
}

/** Byte strings. @throws CheckpointCorrupt */
async function deletedNames(copy: CheckpointCopy): Promise<string[]> {
  if (!copy.manifest.files.some(({ path }) => path === FS_FILES.deletedFiles)) {
    return [];
  }
  const list: unknown = JSON.parse(await textOf(copy, FS_FILES.deletedFiles));
  const entries: readonly unknown[] = Array.isArray(list) ? list : [];
  return entries.map((entry) => {
    if (typeof entry === 'string') {
      return Buffer.from(entry).toString('latin1');
    }
    const base64 = typeof entry === 'object' && entry !== null && 'base64' in entry ? entry.base64 : undefined;
    if (typeof base64 !== 'string') {
      throw new KybernateError(
        'CheckpointCorrupt',
        `${FS_FILES.deletedFiles} of ${copy.checkpointId} is no list of paths`,
      );
    }
    return Buffer.from(base64, 'base64').toString('latin1');
  });
}

/**
 * Engines give the root directory permissions of their own, and CRIU insists on those of the dump. Podman leaves out a
 * member `./` whose directory is there, but not `/`. Source: containers/storage, pkg/archive/archive.go, Unpack.
 */
async function rootDirectory(copy: CheckpointCopy, format: ExportFormat): Promise<Uint8Array[]> {
  const file = copy.manifest.files.find(({ path }) => path === FILES_IMAGE);
  const mode = file === undefined ? undefined : rootMode(await bytesOf(copy, file), FILES_IMAGE);
  return mode === undefined ? [] : [tarDirectory(format === 'podman' ? '' : '.', 0, mode)];
}

function whiteout(name: string): Uint8Array {
  const slash = name.lastIndexOf('/') + 1;
  return emptyFile(`${name.slice(0, slash)}.wh.${name.slice(slash)}`);
}

function opaque(name: string): Uint8Array {
  return emptyFile(`${name}/.wh..wh..opq`);
}

/** @param name byte string */
function emptyFile(name: string): Uint8Array {
  return tarHeader({ name: Buffer.from(name, 'latin1').toString('utf8'), bytes: 0, mtimeS: 0 });
}
