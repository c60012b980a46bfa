/* Files of a checkpoint made for a container runtime: from where the engine captures to where its caller wants them. */
import { copyFile, readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { CRIU_DIR, CUDA_FILES, LOGS_DIR } from '../core/checkpoint/file-names.ts';
import { IMAGE_GPU_FILE } from './gpu/image-gpu.ts';

/**
 * Images into the image path, logs into the work path; a file of the same name is replaced, as CRIU does.
 * @param staging on the file system of the image path: the images are renamed
 * Crash: some have moved; the operation is undone, and what has moved stays.
 */
export async function deliverImages(staging: string, imagePath: string, workPath: string): Promise<void> {
  await moveFiles(join(staging, CRIU_DIR), imagePath);
  await moveFiles(join(staging, LOGS_DIR), workPath);
  // Without it a restore of these images would leave the GPU state in the host's memory.
  await moveFile(join(staging, CUDA_FILES.state), join(imagePath, IMAGE_GPU_FILE));
}

/** The shim shows its user the dump.log of the work path. Absent logs are success: the capture never began. */
export async function copyLogs(from: string, workPath: string): Promise<void> {
  for (const name of await readdir(from).catch(() => [])) {
    await copyFile(join(from, name), join(workPath, name));
  }
}

async function moveFiles(from: string, to: string): Promise<void> {
  for (const name of await readdir(from)) {
    await moveFile(join(from, name), join(to, name));
  }
}

/** The work path may lie on another file system. */
async function moveFile(from: string, to: string): Promise<void> {
  await rename(from, to).catch(async (error: unknown) => {
    if ((error as NodeJS.ErrnoException).code !== 'EXDEV') {
      throw error;
    }
    await copyFile(from, to);
  });
}
