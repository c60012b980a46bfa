/*
 * Directories that are no checkpoint of this node, to be stored under the id of one: described where they lie, not
 * copied. Made by the sidecar, hence without a signature of root; they have no processes to restore.
 */
import { mkdir, rm, symlink } from 'node:fs/promises';
import { arch, hostname, release } from 'node:os';
import { basename, join } from 'node:path';
import { METADATA_FILE, OWN_FILES } from '../core/checkpoint/file-names.ts';
import { encodeManifest, pathProblem, type Manifest } from '../core/checkpoint/manifest.ts';
import { METADATA_VERSION, type Metadata } from '../core/checkpoint/metadata.ts';
import { KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import { describeCheckpoint } from '../store/describe.ts';
import { writeFileDurably } from '../store/files.ts';
import { merkleRoot } from '../store/merkle.ts';

/** Stands where the metadata of a container has its id. */
export const ARTIFACTS = 'artifacts';

interface Staging {
  /** made anew; holds the records and a link to each directory */
  readonly dir: string;
  readonly checkpointId: string;
  readonly node: string;
}

/**
 * Each directory becomes one of the same name in the checkpoint.
 * @throws InvalidInput two have one name, or one has a name that a checkpoint cannot hold; CheckpointCorrupt one holds
 *   what is neither a file nor a directory
 */
export async function stageArtifacts(
  staging: Staging,
  paths: readonly string[],
  op: Op,
): Promise<{ dir: string; manifest: Manifest }> {
  const names = paths.map((path) => basename(path));
  const wrong = names.find((name, index) => pathProblem(name) !== undefined || names.indexOf(name) !== index);
  if (wrong !== undefined) {
    throw new KybernateError(
      'InvalidInput',
      `paths: ${wrong} ${pathProblem(wrong) ?? 'is named twice'}; nothing was sent`,
    );
  }
  const parts: Manifest[] = [];
  for (const path of paths) {
    parts.push(await describeCheckpoint(path, op));
  }
  const manifest = joined(names, parts);
  await rm(staging.dir, { recursive: true, force: true });
  await mkdir(staging.dir, { recursive: true, mode: 0o700 });
  for (const [index, path] of paths.entries()) {
    await symlink(path, join(staging.dir, names[index] ?? ''));
  }
  await writeFileDurably(join(staging.dir, OWN_FILES.manifest), encodeManifest(manifest));
  await writeFileDurably(
    join(staging.dir, METADATA_FILE),
    `${JSON.stringify(metadataOf(staging, manifest), null, 1)}\n`,
  );
  return { dir: staging.dir, manifest };
}

function joined(names: readonly string[], parts: readonly Manifest[]): Manifest {
  const [first] = parts;
  if (first === undefined) {
    throw new KybernateError('InvalidInput', 'paths: give at least one directory');
  }
  const files = parts
    .flatMap((part, index) => part.files.map((file) => ({ ...file, path: `${names[index] ?? ''}/${file.path}` })))
    .sort((left, right) => (left.path < right.path ? -1 : 1));
  const totalBytes = parts.reduce((sum, part) => sum + part.totalBytes, 0);
  return { ...first, files, totalBytes, merkleRoot: merkleRoot(files) };
}

/** What there is to say of a checkpoint without a container. */
function metadataOf({ checkpointId, node }: Staging, manifest: Manifest): Metadata {
  const none = { criuVersion: '', runcVersion: '', containerdVersion: '', cpuModel: '', cpuFlags: [] };
  return {
    version: METADATA_VERSION,
    checkpointId,
    createdAt: new Date().toISOString(),
    labels: {},
    container: { id: ARTIFACTS, namespace: ARTIFACTS, runtime: '', labels: {} },
    node: { name: node, hostname: hostname(), kernel: release(), arch: arch(), cgroupVersion: 2, ...none },
    capture: {
      engine: 'runc',
      method: ARTIFACTS,
      tcp: 'close',
      after: 'resume',
      criuOptions: [],
      phases: { freezeMs: 0, totalMs: 0, unaccountedMs: 0, parts: {} },
    },
    processes: [],
    gpuProcesses: [],
    stdio: { terminal: false, stdin: '', stdout: '', stderr: '' },
    mounts: [],
    rootfs: { method: 'none', deletedFiles: 0 },
    sizes: { totalBytes: manifest.totalBytes, imageBytes: 0, rootfsBytes: 0 },
    merkleRoot: manifest.merkleRoot,
    warnings: ['made of directories by a sidecar: there is no process to restore'],
  };
}
