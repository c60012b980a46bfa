/*
 * A checkpoint made without the engine: plain `runc checkpoint`, the rw layer by tar, metadata written by hand. The
 * restore side is tested against it alone.
 */
import { lstatSync, mkdirSync, readdirSync, renameSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';

import { METADATA_FILE, OWN_FILES, checkpointDirName } from '../../core/checkpoint/file-names.ts';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import { probeNodeFacts } from '../../engine/facts.ts';
import type { NodeDeps } from '../../engine/node-deps.ts';
import type { Containerd } from '../../native/containerd/containerd.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { fromLane } from './provided.ts';

export interface HandMade {
  readonly deps: NodeDeps;
  readonly namespace: string;
  readonly container: string;
  readonly stateDir: string;
  readonly checkpointId: string;
  /** flags of `runc checkpoint`, for example `--tcp-established` */
  readonly flags?: readonly string[];
  /** lines of CRIU's configuration file for the dump */
  readonly criuConfig?: string;
  /** CRIU options that the metadata tells of */
  readonly recorded?: readonly string[];
  readonly metadata?: Partial<Metadata>;
}

/** @returns directory of the checkpoint */
export async function checkpointByHand(input: HandMade): Promise<string> {
  const { deps, namespace, container, checkpointId } = input;
  const { containerd } = deps;
  // Aside until its metadata is there: a worker that starts meanwhile takes what has none for a left-over.
  const dir = join(input.stateDir, 'by-hand', checkpointDirName(checkpointId));
  for (const part of ['criu', 'fs', 'work']) {
    mkdirSync(join(dir, part), { recursive: true, mode: 0o700 });
  }
  const record = await containerd.getContainer(namespace, container);
  if (record === undefined) {
    throw new Error(`no container ${container}`);
  }
  const config = join(dir, 'work/criu.conf');
  writeFileSync(config, input.criuConfig ?? '');
  const dump = [
    '--root',
    `/run/containerd/runc/${namespace}`,
    'checkpoint',
    '--leave-running',
    ...(input.flags ?? []),
    '--image-path',
    join(dir, 'criu'),
    '--work-path',
    join(dir, 'work'),
    container,
  ];
  await must('runc', dump, input.criuConfig === undefined ? {} : { CRIU_CONFIG_FILE: config });
  await saveLayer(containerd, namespace, { snapshotter: record.snapshotter, key: record.snapshotKey }, dir);
  const parent = (await containerd.statSnapshot(namespace, record.snapshotter, record.snapshotKey))?.parent;
  writeFileSync(join(dir, OWN_FILES.spec), record.spec);
  const { node: _name, ...facts } = await probeNodeFacts(deps);
  const spec = JSON.parse(record.spec) as { process?: { terminal?: boolean } };
  const metadata: Metadata = {
    version: 1,
    checkpointId,
    createdAt: new Date().toISOString(),
    labels: {},
    container: { id: container, namespace, runtime: record.runtime.name, labels: {} },
    node: { ...facts, cpuFlags: [...facts.cpuFlags], name: 'test' },
    capture: {
      engine: 'runc',
      method: 'criu',
      tcp: 'keep',
      after: 'resume',
      criuOptions: (input.recorded ?? []).map((option) => ({ option, reason: 'test' })),
      phases: { freezeMs: 0, totalMs: 0, unaccountedMs: 0, parts: {} },
    },
    processes: [],
    gpuProcesses: [],
    stdio: { terminal: spec.process?.terminal ?? false, stdin: 'null', stdout: 'null', stderr: 'null' },
    mounts: [],
    rootfs: {
      method: 'overlay',
      snapshotter: record.snapshotter,
      ...(parent === undefined ? {} : { parent }),
      deletedFiles: 0,
    },
    sizes: { totalBytes: 0, imageBytes: 0, rootfsBytes: 0 },
    merkleRoot: '',
    warnings: [],
    ...input.metadata,
  };
  writeFileSync(join(dir, METADATA_FILE), JSON.stringify(metadata));
  const checkpoints = join(input.stateDir, 'checkpoints');
  mkdirSync(checkpoints, { recursive: true, mode: 0o700 });
  renameSync(dir, join(checkpoints, checkpointDirName(checkpointId)));
  return join(checkpoints, checkpointDirName(checkpointId));
}

/** Overlayfs' own form of a deletion is a character device 0:0 in the upper directory. */
async function saveLayer(
  containerd: Containerd,
  namespace: string,
  snapshot: { snapshotter: string; key: string },
  dir: string,
): Promise<void> {
  const mounts = await containerd.snapshotMounts(namespace, snapshot.snapshotter, snapshot.key);
  const upper = mounts[0]?.options.find((option) => option.startsWith('upperdir='))?.slice('upperdir='.length);
  if (upper === undefined) {
    throw new Error(`snapshot ${snapshot.key} has no upper directory`);
  }
  const deleted = below(upper)
    .filter((path) => lstatSync(path).isCharacterDevice())
    .map((path) => relative(upper, path));
  writeFileSync(join(dir, 'fs/deleted.files'), JSON.stringify(deleted));
  await must('tar', [
    // the source writes on
    '--warning=no-file-changed',
    '--create',
    '--numeric-owner',
    '--xattrs',
    `--file=${join(dir, 'fs/rootfs-diff.tar')}`,
    `--directory=${upper}`,
    ...deleted.map((path) => `--exclude=./${path}`),
    '.',
  ]);
}

function below(dir: string): string[] {
  return readdirSync(dir, { withFileTypes: true }).flatMap((entry) => {
    const path = join(dir, entry.name);
    return entry.isDirectory() ? [path, ...below(path)] : [path];
  });
}

async function must(program: string, args: readonly string[], more: Record<string, string> = {}): Promise<void> {
  const result = await runExeca(program, args, { env: { PATH: fromLane('containerd').path, ...more } });
  // 1 of tar: a file changed meanwhile
  if (result.exitCode !== 0 && !(program === 'tar' && result.exitCode === 1)) {
    throw new Error(`${program} ${args.join(' ')}: ${result.startError ?? result.stderr}`);
  }
}
