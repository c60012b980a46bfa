/*
 * One process that does to the store what the sidecar does, and raw transfers of the AWS SDK beside it. A command a line
 * on stdin, an answer a line on stdout. It runs from a bundle, as the shipped form does: stripping types takes memory.
 */
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  GetObjectCommand,
  S3Client,
  UploadPartCommand,
} from '@aws-sdk/client-s3';
import { open, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { METADATA_FILE, OWN_FILES } from '../../core/checkpoint/file-names.ts';
import { encodeManifest, parseManifest } from '../../core/checkpoint/manifest.ts';
import type { Codec } from '../../core/pack/pack.ts';
import { dataExtents } from '../../native/libc/data-extents.ts';
import { openBackend } from '../../store/backend/open.ts';
import { keepChunkThreads } from '../../store/chunk-workers.ts';
import { describeCheckpoint } from '../../store/describe.ts';
import { fetchCheckpoint } from '../../store/fetch.ts';
import { forEachLimit } from '../../store/limit.ts';
import { publishManifest } from '../../store/publish.ts';
import { uploadCheckpoint } from '../../store/upload.ts';
import { sampleMetadata, testOp } from '../../test/harness/checkpoint-dir.ts';
import { CREDENTIALS } from '../../test/harness/versitygw.ts';

export type Command =
  /** digests, manifest, metadata */
  | { readonly do: 'commit'; readonly dir: string; readonly id: string }
  | { readonly do: 'upload'; readonly dir: string; readonly id: string; readonly store: Place; readonly codec: Codec }
  | { readonly do: 'download'; readonly dir: string; readonly id: string; readonly store: Place }
  | { readonly do: 'raw upload'; readonly file: string; readonly endpoint: string; readonly key: string }
  | { readonly do: 'raw download'; readonly file: string; readonly endpoint: string; readonly key: string };

export interface Place {
  readonly url: string;
  readonly endpoint?: string;
}

export interface Answer {
  readonly ms: number;
  /** of all threads */
  readonly cpuMs: number;
  /** of the process so far */
  readonly maxRssMiB: number;
  /** raw bytes */
  readonly bytes: number;
  readonly sentBytes?: number;
}

const PART_BYTES = 8 * 2 ** 20;
const PARALLEL_PARTS = 4;
const quiet = { ...testOp(), progress: (): void => undefined };

async function perform(command: Command): Promise<Pick<Answer, 'bytes' | 'sentBytes'>> {
  if (command.do === 'commit') {
    return commit(command.dir, command.id);
  }
  if (command.do === 'upload') {
    return upload(command);
  }
  if (command.do === 'download') {
    return download(command);
  }
  return command.do === 'raw upload' ? rawUpload(command) : rawDownload(command);
}

async function download({ id, dir, store }: Extract<Command, { do: 'download' }>): Promise<{ bytes: number }> {
  const backend = await openPlace(store);
  const { totalBytes } = await fetchCheckpoint({ checkpointId: id, backend, destDir: dir, op: quiet });
  await backend.close();
  return { bytes: totalBytes };
}

async function commit(dir: string, id: string): Promise<{ bytes: number }> {
  const manifest = await describeCheckpoint(dir, quiet, { dataExtents });
  await writeFile(join(dir, OWN_FILES.manifest), encodeManifest(manifest));
  await writeFile(join(dir, METADATA_FILE), JSON.stringify(sampleMetadata(id, manifest)));
  return { bytes: manifest.totalBytes };
}

async function upload({ dir, id, store, codec }: Extract<Command, { do: 'upload' }>): Promise<{
  bytes: number;
  sentBytes: number;
}> {
  const backend = await openPlace(store);
  const manifest = parseManifest(await readFile(join(dir, OWN_FILES.manifest), 'utf8'), dir);
  const common = { checkpointId: id, dir, backend, op: quiet, ledgerPath: `${dir}.ledger` };
  await rm(common.ledgerPath, { force: true });
  const { sentBytes } = await uploadCheckpoint({ ...common, manifest, codec });
  await publishManifest(common);
  await backend.close();
  return { bytes: manifest.totalBytes, sentBytes };
}

function openPlace({ url, endpoint }: Place): ReturnType<typeof openBackend> {
  return openBackend(url, endpoint === undefined ? {} : { endpoint, credentials: CREDENTIALS });
}

function rawClient(endpoint: string): S3Client {
  return new S3Client({ region: 'us-east-1', endpoint, forcePathStyle: true, credentials: CREDENTIALS });
}

/** Parts of 8 MiB, four at a time, as the SDK's own uploader does by default but for its 5 MiB. */
async function rawUpload({ file, endpoint, key }: { file: string; endpoint: string; key: string }): Promise<{
  bytes: number;
}> {
  const client = rawClient(endpoint);
  const at = { Bucket: 'bucket', Key: key };
  const handle = await open(file, 'r');
  const { size } = await handle.stat();
  const { UploadId } = await client.send(new CreateMultipartUploadCommand(at));
  try {
    const numbers = Array.from({ length: Math.ceil(size / PART_BYTES) }, (_, index) => index + 1);
    const Parts: Array<{ PartNumber: number; ETag: string | undefined }> = [];
    await forEachLimit(numbers, PARALLEL_PARTS, quiet.signal, async (PartNumber) => {
      const start = (PartNumber - 1) * PART_BYTES;
      const Body = Buffer.allocUnsafeSlow(Math.min(PART_BYTES, size - start));
      await handle.read(Body, 0, Body.length, start);
      const { ETag } = await client.send(new UploadPartCommand({ ...at, UploadId, PartNumber, Body }));
      Parts[PartNumber - 1] = { PartNumber, ETag };
    });
    await client.send(new CompleteMultipartUploadCommand({ ...at, UploadId, MultipartUpload: { Parts } }));
  } catch (error) {
    await client.send(new AbortMultipartUploadCommand({ ...at, UploadId }));
    throw error;
  } finally {
    await handle.close();
    client.destroy();
  }
  return { bytes: size };
}

/** Ranges of 8 MiB, four at a time, into a file. */
async function rawDownload({ file, endpoint, key }: { file: string; endpoint: string; key: string }): Promise<{
  bytes: number;
}> {
  const client = rawClient(endpoint);
  const at = { Bucket: 'bucket', Key: key };
  const first = await client.send(new GetObjectCommand({ ...at, Range: 'bytes=0-0' }));
  await first.Body?.transformToByteArray();
  const size = Number(first.ContentRange?.split('/')[1]);
  const handle = await open(file, 'wx');
  try {
    const starts = Array.from({ length: Math.ceil(size / PART_BYTES) }, (_, index) => index * PART_BYTES);
    await forEachLimit(starts, PARALLEL_PARTS, quiet.signal, async (start) => {
      const Range = `bytes=${start}-${Math.min(size, start + PART_BYTES) - 1}`;
      const { Body } = await client.send(new GetObjectCommand({ ...at, Range }));
      const bytes = (await Body?.transformToByteArray()) ?? new Uint8Array();
      await handle.write(bytes, 0, bytes.length, start);
    });
    await handle.datasync();
  } finally {
    await handle.close();
    client.destroy();
  }
  return { bytes: size };
}

/** Not what getrusage says: that begins with the size of the process that started this one. */
async function maxRssMiB(): Promise<number> {
  const [, kib = ''] = /^VmHWM:\s+(\d+) kB$/m.exec(await readFile('/proc/self/status', 'utf8')) ?? [];
  return Math.round(Number(kib) / 1024);
}

await keepChunkThreads();
for await (const line of createInterface(process.stdin)) {
  const command: Command = JSON.parse(line);
  const cpu = process.cpuUsage();
  const startedAt = performance.now();
  const done = await perform(command);
  const ms = performance.now() - startedAt;
  const { user, system } = process.cpuUsage(cpu);
  const answer: Answer = { ...done, ms, cpuMs: (user + system) / 1000, maxRssMiB: await maxRssMiB() };
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0);
