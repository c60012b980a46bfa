/*
 * The Merkle root of a manifest. Leaves are the chunks:
 *
 *   chunk  BLAKE3 of its bytes; 32 zero bytes for a chunk of zeros
 *   file   BLAKE3 of "kybernate file 1\n", JSON of [path, bytes, [segment without its chunks, ...]], "\n", its leaves
 *   root   BLAKE3 of "kybernate checkpoint 1\n" and the digests of the files in the manifest's order
 *
 * so whoever knows the root can check one chunk with the other leaves of its file and the digests of the files.
 */
import { DIGEST_BYTES, type ManifestFile, type Segment } from '../core/checkpoint/manifest.ts';
import { spansOf } from './chunk-list.ts';
import { Digester, toHex } from './digest.ts';

const ZERO_LEAVES = new Uint8Array(2048 * DIGEST_BYTES);

/** @throws CheckpointCorrupt when the chunks of a file do not fit its size */
export function merkleRoot(files: readonly ManifestFile[]): string {
  const root = new Digester().update('kybernate checkpoint 1\n');
  for (const file of files) {
    root.update(fileDigest(file));
  }
  return toHex(root.digest());
}

function fileDigest(file: ManifestFile): Uint8Array {
  const shape = JSON.stringify([file.path, file.bytes, file.segments.map(shapeOf)]);
  const digest = new Digester().update(`kybernate file 1\n${shape}\n`);
  for (const { count, digests } of spansOf(file)) {
    if (digests === undefined) {
      addZeroLeaves(digest, count);
    } else {
      digest.update(digests);
    }
  }
  return digest.digest();
}

function addZeroLeaves(digest: Digester, count: number): void {
  for (let left = count * DIGEST_BYTES; left > 0; left -= ZERO_LEAVES.length) {
    digest.update(ZERO_LEAVES.subarray(0, Math.min(left, ZERO_LEAVES.length)));
  }
}

function shapeOf(segment: Segment): unknown[] {
  return segment.kind === 'file' ? ['file', segment.bytes] : ['memory', segment.pageBytes, segment.runs];
}
