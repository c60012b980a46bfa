/* A file of an exported archive, and what the dumps of every engine are made from. */
import type { ManifestFile } from '../../core/checkpoint/manifest.ts';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import { KybernateError } from '../../core/errors.ts';
import type { OciSpec } from '../../core/oci/spec.ts';
import type { CheckpointCopy } from '../copy.ts';

export type ExportFormat = 'podman' | 'cri';

export interface ExportedFile {
  readonly path: string;
  readonly bytes: number;
  readonly content: () => AsyncIterable<Uint8Array>;
}

/** What an archive calls a container, and what it is made from. */
export interface DumpInput {
  readonly spec: OciSpec;
  readonly metadata: Metadata;
  readonly containerId: string;
  /** name, and id or name, of the image */
  readonly image: { readonly name: string; readonly id: string };
}

export function madeFile(path: string, content: string | Uint8Array): ExportedFile {
  const bytes = Buffer.from(content);
  return {
    path,
    bytes: bytes.length,
    content: async function* () {
      yield await Promise.resolve(bytes);
    },
  };
}

export async function textOf(copy: CheckpointCopy, path: string): Promise<string> {
  const file: ManifestFile | undefined = copy.manifest.files.find((one) => one.path === path);
  if (file === undefined) {
    throw new KybernateError('CheckpointCorrupt', `${copy.checkpointId} has no ${path}`);
  }
  return Buffer.from(await bytesOf(copy, file)).toString('utf8');
}

export async function bytesOf(copy: CheckpointCopy, file: ManifestFile): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  for await (const piece of copy.read(file)) {
    pieces.push(Uint8Array.from(piece));
  }
  return Buffer.concat(pieces);
}
