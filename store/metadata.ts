import { parseJson } from '../core/checkpoint/manifest.ts';
import { metadata, type Metadata } from '../core/checkpoint/metadata.ts';

/** @throws CheckpointCorrupt naming `where` */
export function parseMetadata(text: string, where: string): Metadata {
  return parseJson(metadata, text, where);
}
