/*
 * A checkpoint as one stream: a tar archive that any tar unpacks to a checkpoint directory. What fixes every byte comes
 * first, so that a reader refuses before it writes anything: manifest.json, metadata.json, signature.json where there is
 * one, then the files in the order of the manifest. Every chunk is checked before it goes out.
 */
import { checkpointDirName, METADATA_FILE, OWN_FILES } from '../core/checkpoint/file-names.ts';
import type { Op } from '../core/op.ts';
import type { CheckpointCopy } from './copy.ts';
import { parseMetadata } from './metadata.ts';
import { padding, TAR_END, tarHeader } from './tar.ts';

/** The archive in pieces; each is valid until the next one is asked for. */
export async function* exportCheckpoint(copy: CheckpointCopy, op: Op): AsyncGenerator<Uint8Array> {
  const { checkpointId, manifest, listText, metadataText, signatureText } = copy;
  const { createdAt } = parseMetadata(metadataText, METADATA_FILE);
  const mtimeS = Math.max(0, Math.floor(Date.parse(createdAt) / 1000)) || 0;
  const header = (path: string, bytes: number): Uint8Array =>
    tarHeader({ name: `${checkpointDirName(checkpointId)}/${path}`, bytes, mtimeS });
  const own: Array<[path: string, content: Uint8Array]> = [
    [OWN_FILES.manifest, listText],
    [METADATA_FILE, Buffer.from(metadataText)],
    ...(signatureText === undefined
      ? []
      : [[OWN_FILES.signature, Buffer.from(signatureText)] satisfies [string, Buffer]]),
  ];
  for (const [path, content] of own) {
    yield header(path, content.length);
    yield content;
    yield padding(content.length);
  }
  let bytesDone = 0;
  for (const file of manifest.files) {
    op.signal.throwIfAborted();
    yield header(file.path, file.bytes);
    for await (const piece of copy.read(file)) {
      yield piece;
      bytesDone += piece.length;
      op.progress({ phase: 'exporting', bytesDone, bytesTotal: manifest.totalBytes });
    }
    yield padding(file.bytes);
  }
  yield TAR_END;
}
