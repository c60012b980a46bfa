/* The test images: their names, and how they come into containerd. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';

import type { Containerd } from '../../cli/dev/containerd-client.ts';
import { type ImageName, importImages } from '../../cli/dev/images.ts';

export const BUSYBOX_IMAGE = 'docker.io/kybernate/busybox:1' satisfies ImageName;
export const REDIS_IMAGE = 'docker.io/kybernate/redis:1' satisfies ImageName;
export const PYTHON_IMAGE = 'docker.io/kybernate/python:1' satisfies ImageName;

/** Folders of the archives that `make gpu-bundle` makes; whichever of them were sent are there. */
const BUNDLED = ['images', 'chaos', 'control-plane', 'image'];

/**
 * On a machine that lacks the files of which we make images: what `make gpu-bundle` has made elsewhere.
 * @param short `redis`
 * @returns undefined on all other machines. @throws when that part of the bundle was not sent
 */
export function bundledImage(short: string): string | undefined {
  const bundle = process.env['KYBERNATE_GPU_DIR'];
  if (bundle === undefined) {
    return undefined;
  }
  const files = BUNDLED.map((folder) => join(bundle, folder, `${short}.tar`));
  const file = files.find((path) => existsSync(path));
  if (file === undefined) {
    throw new Error(`none of ${files.join(', ')} is there: another part of the bundle is needed`);
  }
  return file;
}

/** Made of this machine's programs, or bundled. */
export async function importTestImages(
  tools: Containerd,
  namespace: string,
  names: readonly ImageName[],
): Promise<void> {
  for (const name of names) {
    const bundled = bundledImage(/\/([a-z]+):/.exec(name)?.[1] ?? name);
    await (bundled === undefined
      ? importImages(tools, namespace, [name], process.env)
      : tools.ctrOk(['-n', namespace, 'images', 'import', '--local', bundled]));
  }
}
