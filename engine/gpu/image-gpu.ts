/*
 * What a bare directory of CRIU's images says about its GPU processes: a file that the checkpoint of `runc checkpoint`
 * leaves beside the images, since nobody could tell otherwise that the driver has to be asked for the rest.
 */
import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { type Metadata, metadata as metadataSchema } from '../../core/checkpoint/metadata.ts';
import { KybernateError, messageOf } from '../../core/errors.ts';

/** Content as of cuda/state.json of a checkpoint; CRIU ignores it. */
export const IMAGE_GPU_FILE = 'kybernate-gpu.json';

export type ImageGpu = Pick<Metadata, 'gpuProcesses' | 'gpu' | 'sizes'>;

const schema = metadataSchema.pick({ gpuProcesses: true, gpu: true });

/**
 * @returns undefined when the images have no GPU part that we know of
 * @throws CheckpointCorrupt the file is there and not readable
 */
export function readImageGpu(imageDir: string): ImageGpu | undefined {
  const file = join(imageDir, IMAGE_GPU_FILE);
  if (!existsSync(file)) {
    return undefined;
  }
  try {
    const { processes, driver, devices } = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
    const imageBytes = readdirSync(imageDir).reduce((sum, name) => sum + statSync(join(imageDir, name)).size, 0);
    return {
      ...schema.parse({ gpuProcesses: processes, gpu: { driver, devices } }),
      sizes: { totalBytes: imageBytes, imageBytes, rootfsBytes: 0 },
    };
  } catch (error) {
    throw new KybernateError('CheckpointCorrupt', `${file} is not readable: ${messageOf(error)}`, { cause: error });
  }
}
