/* A checkpoint as one archive that Podman, CRI-O or containerd reads; every chunk is checked before it goes out. */
import type { Op } from '../../core/op.ts';
import { padding, TAR_END, tarDirectory, tarHeader } from '../tar.ts';
import type { ExportedArchive } from './export-files.ts';

/** The archive in pieces; each is valid until the next one is asked for. */
export async function* archivePieces(
  { files, mtimeS }: Pick<ExportedArchive, 'files' | 'mtimeS'>,
  op: Op,
): AsyncGenerator<Uint8Array> {
  const bytesTotal = files.reduce((sum, { bytes }) => sum + bytes, 0);
  const dirs = new Set<string>();
  let bytesDone = 0;
  for (const { path, bytes, content } of files) {
    op.signal.throwIfAborted();
    for (let slash = path.indexOf('/'); slash !== -1; slash = path.indexOf('/', slash + 1)) {
      const dir = path.slice(0, slash);
      if (!dirs.has(dir)) {
        dirs.add(dir);
        yield tarDirectory(dir, mtimeS);
      }
    }
    yield tarHeader({ name: path, bytes, mtimeS });
    for await (const piece of content()) {
      yield piece;
      bytesDone += piece.length;
      op.progress({ phase: 'exporting', bytesDone, bytesTotal });
    }
    yield padding(bytes);
  }
  yield TAR_END;
}
