/* Checkpoints that share some of their files: of each id two of different content. */
import { join } from 'node:path';
import type { Manifest } from '../../core/checkpoint/manifest.ts';
import { makeCheckpoint, noise } from './checkpoint-dir.ts';

export interface Source {
  readonly checkpointId: string;
  readonly dir: string;
  readonly manifest: Manifest;
}

/** @param fileBytes of each of their three files */
export async function makeSources(root: string, ids: readonly string[], fileBytes = 3000): Promise<Source[]> {
  const sources: Source[] = [];
  for (const [index, checkpointId] of ids.entries()) {
    for (const variant of [0, 1]) {
      const dir = join(root, `${checkpointId}-${variant}`);
      const parts = [index, index + variant, 7 + variant].map((part): [string, Buffer] => [
        `criu/part-${part}.img`,
        noise(fileBytes, `part ${part}`),
      ]);
      sources.push({ checkpointId, dir, manifest: await makeCheckpoint(dir, checkpointId, Object.fromEntries(parts)) });
    }
  }
  return sources;
}
