/* Where each distinct chunk of a manifest belongs: linked lists in flat arrays of their final size, for there may be millions. */
import { DIGEST_BYTES, type Manifest, type ManifestFile } from '../core/checkpoint/manifest.ts';
import { storedChunksOf, type StoredChunk } from './chunk-list.ts';
import { DigestTable } from './digest-table.ts';

/** One place where a chunk belongs. */
export interface Occurrence {
  /** index in `manifest.files` */
  readonly file: number;
  readonly chunk: number;
  /** in the file */
  readonly offset: number;
}

export class ChunkUses {
  readonly table: DigestTable;
  contentBytes = 0;
  /** by chunk */
  readonly #first: Int32Array;
  readonly #bytes: Uint32Array;
  /** by place */
  readonly #next: Int32Array;
  readonly #file: Uint32Array;
  readonly #chunk: Uint32Array;
  readonly #offset: Float64Array;

  /** @param wanted which chunks; all without it */
  constructor(manifest: Manifest, wanted?: (file: ManifestFile, chunk: StoredChunk) => boolean) {
    const places = storedChunkCount(manifest);
    this.table = new DigestTable(DIGEST_BYTES, places);
    this.#first = new Int32Array(places).fill(-1);
    this.#bytes = new Uint32Array(places);
    this.#next = new Int32Array(places);
    this.#file = new Uint32Array(places);
    this.#chunk = new Uint32Array(places);
    this.#offset = new Float64Array(places);
    let place = 0;
    for (const [file, entry] of manifest.files.entries()) {
      for (const stored of storedChunksOf(entry)) {
        if (wanted?.(entry, stored) === false) {
          continue;
        }
        const { index, offset, bytes, digest } = stored;
        const chunk = this.table.add(digest);
        this.#file[place] = file;
        this.#chunk[place] = index;
        this.#offset[place] = offset;
        this.#next[place] = this.#first[chunk] ?? -1;
        this.#first[chunk] = place;
        this.#bytes[chunk] = bytes;
        this.contentBytes += bytes;
        place += 1;
      }
    }
  }

  bytesOf(chunk: number): number {
    return this.#bytes[chunk] ?? 0;
  }

  occurrences(chunk: number): Occurrence[] {
    const places: Occurrence[] = [];
    for (let at = this.#first[chunk] ?? -1; at !== -1; at = this.#next[at] ?? -1) {
      places.push({ file: this.#file[at] ?? 0, chunk: this.#chunk[at] ?? 0, offset: this.#offset[at] ?? 0 });
    }
    return places.reverse();
  }
}

/** At least as many as there are chunks that are not zeros; repeated ones count each time. */
export function storedChunkCount(manifest: Manifest): number {
  let digestBytes = 0;
  for (const { segments } of manifest.files) {
    for (const { digests } of segments) {
      digestBytes += (digests.length / 4) * 3;
    }
  }
  return Math.ceil(digestBytes / DIGEST_BYTES);
}
