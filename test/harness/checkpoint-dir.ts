/* A checkpoint directory as a capture leaves it, with bytes of our choice: for tests of the store. */
import { createHash } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { OWN_FILES, METADATA_FILE } from '../../core/checkpoint/file-names.ts';
import { encodeManifest, type Manifest } from '../../core/checkpoint/manifest.ts';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import type { Op, Progress } from '../../core/op.ts';
import { describeCheckpoint } from '../../store/describe.ts';

export const PAGE = 4096;

/** An Op that records progress and warnings. */
export function testOp(signal: AbortSignal = new AbortController().signal): Op & {
  readonly seen: Progress[];
  readonly warnings: string[];
} {
  const seen: Progress[] = [];
  const warnings: string[] = [];
  const quiet = (): void => undefined;
  return {
    signal,
    log: { debug: quiet, info: quiet, warn: (_, message) => warnings.push(message), error: quiet },
    progress: (done) => seen.push(done),
    seen,
    warnings,
  };
}

/** Bytes that do not compress, the same for the same seed. */
export function noise(bytes: number, seed: string): Buffer {
  return createHash('shake256', { outputLength: bytes }).update(seed).digest();
}

export interface PageRun {
  readonly vaddr: number;
  readonly pages: number;
  /** 4 present; 2 lazy, 1 in the parent image: not in the page file */
  readonly flags?: number;
}

/** A pagemap image as CRIU writes it. */
export function pagemapImage(pagesId: number, runs: readonly PageRun[]): Buffer {
  const records = [
    Buffer.from([8, ...varint(pagesId)]),
    ...runs.map(({ vaddr, pages, flags }) =>
      Buffer.from([8, ...varint(vaddr), 16, 0, 32, ...varint(flags ?? 4), 40, ...varint(pages)]),
    ),
  ];
  const magic = Buffer.from([0x19, 0x43, 0x56, 0x54, 0x25, 0x40, 0x08, 0x56]);
  return Buffer.concat([
    magic,
    ...records.flatMap((record) => {
      const length = Buffer.alloc(4);
      length.writeUInt32LE(record.length);
      return [length, record];
    }),
  ]);
}

function varint(value: number): number[] {
  const bytes: number[] = [];
  let left = value;
  while (left >= 128) {
    bytes.push((left % 128) + 128);
    left = Math.floor(left / 128);
  }
  return [...bytes, left];
}

export async function writeFiles(dir: string, files: Readonly<Record<string, Uint8Array | string>>): Promise<void> {
  for (const [path, content] of Object.entries(files)) {
    await mkdir(dirname(join(dir, path)), { recursive: true });
    await writeFile(join(dir, path), content);
  }
}

/** A process with 1 MiB of memory, a rw layer of 300 KiB, and small files. */
export function sampleFiles(seed = 'sample'): Record<string, Buffer> {
  const pages = Buffer.concat([noise(160 * PAGE, `${seed} heap`), Buffer.alloc(64 * PAGE), noise(32 * PAGE, 'libc')]);
  return {
    'config.json': Buffer.from('{"ociVersion":"1.2.0"}'),
    'criu/pagemap-1.img': pagemapImage(1, [
      { vaddr: 0x5500_0003_0000, pages: 224 },
      { vaddr: 0x7f00_0000_0000, pages: 32 },
    ]),
    'criu/pages-1.img': pages,
    'criu/core-1.img': noise(700, `${seed} core`),
    'criu/empty.img': Buffer.alloc(0),
    'fs/rootfs-diff.tar': Buffer.concat([Buffer.alloc(200_000, 'compressible '), noise(100_000, 'tar')]),
    'fs/deleted.files': Buffer.from('[]'),
    'logs/dump.log': Buffer.from('dumped\n'),
  };
}

/** Describes and commits a directory, as the node's commit does. */
export async function commitDir(dir: string, checkpointId: string): Promise<Manifest> {
  const manifest = await describeCheckpoint(dir, testOp());
  await writeFile(join(dir, OWN_FILES.manifest), encodeManifest(manifest));
  await writeFile(join(dir, OWN_FILES.uploadPending), '');
  await writeFile(join(dir, METADATA_FILE), JSON.stringify(sampleMetadata(checkpointId, manifest)));
  return manifest;
}

export async function makeCheckpoint(
  dir: string,
  checkpointId: string,
  files: Readonly<Record<string, Uint8Array | string>> = sampleFiles(),
): Promise<Manifest> {
  await writeFiles(dir, files);
  return commitDir(dir, checkpointId);
}

export function sampleMetadata(checkpointId: string, manifest: Pick<Manifest, 'merkleRoot' | 'totalBytes'>): Metadata {
  return {
    version: 1,
    checkpointId,
    createdAt: '2025-01-02T03:04:05.000Z',
    labels: { team: 'a' },
    container: { id: 'source', namespace: 'default', runtime: 'io.containerd.runc.v2', labels: {} },
    node: {
      name: 'node-a',
      hostname: 'node-a',
      kernel: '6.1.0',
      arch: 'x86_64',
      cpuModel: 'some CPU',
      cpuFlags: ['sse2'],
      cgroupVersion: 2,
      criuVersion: '4.2.1',
      runcVersion: '1.5.2',
      containerdVersion: '2.4.2',
    },
    capture: {
      engine: 'runc',
      method: 'criu',
      tcp: 'keep',
      after: 'resume',
      criuOptions: [],
      phases: { freezeMs: 1, totalMs: 2, unaccountedMs: 0, parts: {} },
    },
    processes: [],
    gpuProcesses: [],
    stdio: { terminal: false, stdin: 'null', stdout: 'null', stderr: 'null' },
    mounts: [],
    rootfs: { method: 'overlay', deletedFiles: 0 },
    sizes: { totalBytes: manifest.totalBytes, imageBytes: 0, rootfsBytes: 0 },
    merkleRoot: manifest.merkleRoot,
    warnings: [],
  };
}
