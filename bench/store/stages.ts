/*
 * Where the processor time of packing goes: each step alone, on one thread, over all of a file that is in memory. And
 * what the kept handles of zstd.ts gain over Node's public calls.
 */
import { readSync } from 'node:fs';
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { constants, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { CHUNK_BYTES } from '../../core/checkpoint/manifest.ts';
import { isZero } from '../../store/chunk-jobs.ts';
import { ZSTD_LEVEL } from '../../store/codec.ts';
import { digestOf } from '../../store/digest.ts';
import { createZstdDecoder, createZstdEncoder, FRAME_SPARE_BYTES } from '../../store/zstd.ts';
import { makeImage, type ImageName } from './images.ts';
import { rounded } from './measure.ts';
import { tarZstd } from './peers.ts';
import type { BenchOptions, Row } from './report.ts';

const BLOCK_BYTES = 2 ** 20;

/** Processor time in ms. */
interface Stages {
  readonly read: number;
  readonly findZeros: number;
  readonly digest: number;
  readonly compress: number;
  readonly compressPublic: number;
  readonly decompress: number;
  readonly decompressPublic: number;
}

const MEASURED: readonly ImageName[] = ['redis', 'python'];
/** That a private handle must gain, to be worth its risk. */
const KEPT_GOAL = 1.15;

export async function stagesBench({ mib, dir, say }: BenchOptions): Promise<Row[]> {
  const rows: Row[] = [];
  for (const name of MEASURED) {
    const image = join(dir, 'image');
    const bytes = await makeImage(name, mib, image);
    const tar = await tarZstd(image, join(dir, 'out'));
    const stages = await measureStages(join(image, 'criu/pages-1.img'));
    const kept = {
      compress: rounded(stages.compressPublic / stages.compress),
      decompress: rounded(stages.decompressPublic / stages.decompress),
    };
    const { read, findZeros, digest, compress } = stages;
    const row = {
      name,
      goal: `kept handles of zstd >= ${KEPT_GOAL} of the public calls`,
      holds: kept.compress >= KEPT_GOAL && kept.decompress >= KEPT_GOAL,
      imageMiB: Math.round(bytes / 2 ** 20),
      oneThreadCpuMs: stages,
      keptOfPublic: kept,
      tarZstdCpuMs: tar.cpuMs,
      // Every byte is read and digested twice: where the checkpoint is taken, and where it is sent. Nothing else counts.
      ceilingOfTarZstdByCpu: rounded(tar.cpuMs / (2 * (read + digest) + findZeros + compress)),
    };
    say(`${name}: ${JSON.stringify(row)}`);
    rows.push(row);
    await rm(image, { recursive: true });
  }
  return rows;
}

type Step = (chunk: Uint8Array) => void;

/** The steps take turns on every block, so that other work on the machine meets all of them. */
async function measureStages(path: string): Promise<Stages> {
  const spent = new Map<string, number>();
  const out = Buffer.alloc(CHUNK_BYTES + FRAME_SPARE_BYTES);
  const back = Buffer.alloc(CHUNK_BYTES);
  const encode = createZstdEncoder(ZSTD_LEVEL);
  const decode = createZstdDecoder();
  const params = { [constants.ZSTD_c_compressionLevel]: ZSTD_LEVEL };
  const compress: Readonly<Record<string, Step>> = {
    digest: (chunk) => void digestOf(chunk),
    compress: (chunk) => void encode(chunk, out, 0),
    compressPublic: (chunk) => void zstdCompressSync(chunk, { chunkSize: out.length, params }),
  };
  const decompress: Readonly<Record<string, Step>> = {
    decompress: (frame) => void decode(frame, back),
    decompressPublic: (frame) =>
      void zstdDecompressSync(frame, { chunkSize: CHUNK_BYTES, maxOutputLength: CHUNK_BYTES }),
  };
  const time = (name: string, act: () => void): void => {
    const before = process.cpuUsage();
    act();
    const { user, system } = process.cpuUsage(before);
    spent.set(name, (spent.get(name) ?? 0) + (user + system) / 1000);
  };
  const block = Buffer.allocUnsafeSlow(BLOCK_BYTES);
  const handle = await open(path, 'r');
  try {
    const { size } = await handle.stat();
    for (let at = 0; at + BLOCK_BYTES <= size; at += BLOCK_BYTES) {
      time('read', () => readSync(handle.fd, block, 0, BLOCK_BYTES, at));
      const chunks = Array.from({ length: BLOCK_BYTES / CHUNK_BYTES }, (_, index) =>
        block.subarray(index * CHUNK_BYTES, (index + 1) * CHUNK_BYTES),
      );
      let wanted: Buffer[] = [];
      time('findZeros', () => {
        wanted = chunks.filter((chunk) => !isZero(chunk));
      });
      const frames = wanted.map((chunk) => zstdCompressSync(chunk, { params }));
      Object.entries(compress).forEach(([name, step]) => time(name, () => wanted.forEach(step)));
      Object.entries(decompress).forEach(([name, step]) => time(name, () => frames.forEach(step)));
    }
  } finally {
    await handle.close();
  }
  const of = (name: keyof Stages): number => Math.round(spent.get(name) ?? 0);
  return {
    read: of('read'),
    findZeros: of('findZeros'),
    digest: of('digest'),
    compress: of('compress'),
    compressPublic: of('compressPublic'),
    decompress: of('decompress'),
    decompressPublic: of('decompressPublic'),
  };
}
