/*
 * S3, or a server that speaks it, as a store; the only file that does. The server checks what it is sent by the SDK's
 * CRC32; here its errors become ours, and silence is bounded: 2 attempts of at most 6 s each (s3-retry.ts).
 */
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
  UploadPartCommand,
  type CompletedPart,
  type GetObjectCommandOutput,
} from '@aws-sdk/client-s3';
import { forEachLimit } from '../limit.ts';
import { readBody } from './s3-body.ts';
import { RETRY_PAUSE_MS, retrying } from './s3-retry.ts';
import { nameOf, statusOf, storageDenied, toStorageError } from './s3-errors.ts';
import {
  checkKey,
  type Backend,
  type ByteRange,
  type CallOptions,
  type GetOptions,
  type ObjectInfo,
} from './backend.ts';

const MiB = 2 ** 20;
/** Larger objects go in parts. */
const MULTIPART_FROM_BYTES = 96 * MiB;
/** S3's limit is 10,000 parts of at least 5 MiB: the part grows with the object. */
const MAX_PARTS = 9000;
const PARALLEL_PARTS = 4;
const CONNECT_TIMEOUT_MS = 3000;
const IDLE_TIMEOUT_MS = 5900;

export interface S3Settings {
  /** URL of a server other than AWS; its buckets are addressed by path */
  readonly endpoint?: string;
  readonly region?: string;
  /** otherwise the SDK finds them: environment, profile, instance role */
  readonly credentials?: { readonly accessKeyId: string; readonly secretAccessKey: string };
  /** silence after which an attempt is given up; default 5900, and below 6000: from there on the SDK counts 3 s late */
  readonly idleTimeoutMs?: number;
  /** scale of the pauses between attempts; default `RETRY_PAUSE_MS` */
  readonly retryPauseMs?: number;
}

/** @param prefix key prefix inside the bucket, without slashes at its ends; may be empty */
export function openS3Backend(bucket: string, prefix: string, settings: S3Settings): Backend {
  const client = new S3Client({
    region: settings.region ?? 'us-east-1',
    ...(settings.endpoint === undefined ? {} : { endpoint: settings.endpoint, forcePathStyle: true }),
    ...(settings.credentials === undefined ? {} : { credentials: settings.credentials }),
    maxAttempts: 1,
    // Whoever reads compares digests, and reads once more. The server's checksum is of what was stored: an object that is
    // damaged there would be a server that fails, tried again for ever, instead of damage that is named and repaired.
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: { connectionTimeout: CONNECT_TIMEOUT_MS, socketTimeout: settings.idleTimeoutMs ?? IDLE_TIMEOUT_MS },
  });
  return new S3Backend(client, bucket, { prefix, retryPauseMs: settings.retryPauseMs ?? RETRY_PAUSE_MS });
}

/** Part size of a multipart upload of an object of `bytes`: whole MiB, at least 8, never more than `MAX_PARTS` parts. */
export function multipartPartBytes(bytes: number): number {
  return Math.max(8, Math.ceil(bytes / MAX_PARTS / MiB)) * MiB;
}

class S3Backend implements Backend {
  readonly url: string;
  readonly #client: S3Client;
  readonly #bucket: string;
  readonly #prefix: string;
  readonly #retryPauseMs: number;

  constructor(
    client: S3Client,
    bucket: string,
    { prefix, retryPauseMs }: { readonly prefix: string; readonly retryPauseMs: number },
  ) {
    this.#client = client;
    this.#retryPauseMs = retryPauseMs;
    this.#bucket = bucket;
    this.#prefix = prefix === '' ? '' : `${prefix}/`;
    this.url = `s3://${bucket}${prefix === '' ? '' : `/${prefix}`}`;
  }

  async put(key: string, bytes: Uint8Array, { signal }: CallOptions = {}): Promise<void> {
    const at = this.#at(key, signal);
    if (bytes.length >= MULTIPART_FROM_BYTES) {
      await this.#putInParts(at, bytes, signal);
      return;
    }
    const put = new PutObjectCommand({ ...at, Body: bytes });
    await this.#attempt(`put ${key}`, signal, () => this.#client.send(put, abortOn(signal)));
  }

  async putIfAbsent(key: string, bytes: Uint8Array, { signal }: CallOptions = {}): Promise<boolean> {
    const put = new PutObjectCommand({ ...this.#at(key, signal), Body: bytes, IfNoneMatch: '*' });
    return this.#attempt(`put ${key} if absent`, signal, async () => {
      try {
        await this.#client.send(put, abortOn(signal));
        return true;
      } catch (error) {
        if (statusOf(error) === 412) {
          return false;
        }
        throw error;
      }
    });
  }

  async get(key: string, options: GetOptions = {}): Promise<Uint8Array | undefined> {
    const { range, signal, into } = options;
    if (range !== undefined && ('last' in range ? range.last : range.bytes) === 0) {
      return (await this.head(key, options)) === undefined ? undefined : new Uint8Array();
    }
    const read = new GetObjectCommand({
      ...this.#at(key, signal),
      ...(range === undefined ? {} : { Range: rangeHeader(range) }),
    });
    return this.#attempt(`get ${key}`, signal, async () => {
      const answer = await this.#open(read, signal);
      if (answer === undefined || answer instanceof Uint8Array) {
        return answer;
      }
      return readBody(answer, into);
    });
  }

  async head(key: string, { signal }: CallOptions = {}): Promise<ObjectInfo | undefined> {
    const read = new HeadObjectCommand(this.#at(key, signal));
    return this.#attempt(`head ${key}`, signal, async () => {
      try {
        const info = await this.#client.send(read, abortOn(signal));
        return { key, bytes: info.ContentLength ?? 0, modifiedMs: info.LastModified?.getTime() ?? 0 };
      } catch (error) {
        if (statusOf(error) !== 404) {
          throw error;
        }
      }
      // The answer to HEAD has no body, so a missing bucket looks like a missing key: denied must not mean absent.
      await this.#client
        .send(new HeadBucketCommand({ Bucket: this.#bucket }), abortOn(signal))
        .catch((error: unknown) => {
          throw statusOf(error) === 404 ? storageDenied(this.url, `there is no bucket ${this.#bucket}`, error) : error;
        });
      return undefined;
    });
  }

  async *list(prefix: string, options: CallOptions & { readonly after?: string } = {}): AsyncGenerator<ObjectInfo> {
    const { signal, after } = options;
    signal?.throwIfAborted();
    const from = after === undefined ? {} : { StartAfter: this.#prefix + after };
    let next: { ContinuationToken?: string } | undefined = {};
    while (next !== undefined) {
      const at = { Bucket: this.#bucket, Prefix: this.#prefix + prefix, MaxKeys: 1000, ...from, ...next };
      const read: ListObjectsV2Command = new ListObjectsV2Command(at);
      const page = await this.#attempt(`list ${prefix}`, signal, () => this.#client.send(read, abortOn(signal)));
      for (const object of page.Contents ?? []) {
        const key = object.Key?.slice(this.#prefix.length);
        if (key !== undefined && !key.endsWith('/')) {
          yield { key, bytes: object.Size ?? 0, modifiedMs: object.LastModified?.getTime() ?? 0 };
        }
      }
      const { NextContinuationToken: ContinuationToken } = page;
      next = ContinuationToken === undefined ? undefined : { ContinuationToken };
    }
  }

  async delete(key: string, { signal }: CallOptions = {}): Promise<void> {
    const remove = new DeleteObjectCommand(this.#at(key, signal));
    await this.#attempt(`delete ${key}`, signal, async () => {
      try {
        await this.#client.send(remove, abortOn(signal));
      } catch (error) {
        if (nameOf(error) !== 'NoSuchKey') {
          throw error;
        }
      }
    });
  }

  async sweep(olderThanMs: number, { signal }: CallOptions = {}): Promise<number> {
    const limit = Date.now() - olderThanMs;
    const at = { Bucket: this.#bucket, Prefix: this.#prefix };
    let swept = 0;
    let from: { KeyMarker?: string; UploadIdMarker?: string } | undefined = {};
    while (from !== undefined) {
      const list: ListMultipartUploadsCommand = new ListMultipartUploadsCommand({ ...at, ...from });
      const page = await this.#attempt('list multipart uploads', signal, () =>
        this.#client.send(list, abortOn(signal)),
      );
      for (const { Key, UploadId, Initiated } of page.Uploads ?? []) {
        if (Initiated !== undefined && Initiated.getTime() <= limit) {
          swept += (await this.#abortParts({ Bucket: this.#bucket, Key, UploadId }, signal)) ? 1 : 0;
        }
      }
      const { IsTruncated, NextKeyMarker, NextUploadIdMarker } = page;
      const more = IsTruncated === true && NextKeyMarker !== undefined;
      from = more
        ? { KeyMarker: NextKeyMarker, ...(NextUploadIdMarker ? { UploadIdMarker: NextUploadIdMarker } : {}) }
        : undefined;
    }
    return swept;
  }

  async close(): Promise<void> {
    this.#client.destroy();
  }

  #at(key: string, signal: AbortSignal | undefined): { Bucket: string; Key: string } {
    signal?.throwIfAborted();
    return { Bucket: this.#bucket, Key: this.#prefix + checkKey(key) };
  }

  /** Several parts at once; whatever happens, none is under way and none is left when it returns. */
  async #putInParts(
    at: { readonly Bucket: string; readonly Key: string },
    bytes: Uint8Array,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const what = `put ${at.Key} in parts`;
    const create = new CreateMultipartUploadCommand(at);
    const { UploadId } = await this.#attempt(what, signal, () => this.#client.send(create, abortOn(signal)));
    const partBytes = multipartPartBytes(bytes.length);
    const numbers = Array.from({ length: Math.ceil(bytes.length / partBytes) }, (_, index) => index + 1);
    const Parts: CompletedPart[] = [];
    try {
      await forEachLimit(numbers, PARALLEL_PARTS, signal ?? NEVER, async (PartNumber) => {
        const Body = bytes.subarray((PartNumber - 1) * partBytes, PartNumber * partBytes);
        const part = new UploadPartCommand({ ...at, UploadId, PartNumber, Body });
        const { ETag } = await this.#attempt(what, signal, () => this.#client.send(part, abortOn(signal)));
        Parts[PartNumber - 1] = { PartNumber, ETag };
      });
      const complete = new CompleteMultipartUploadCommand({ ...at, UploadId, MultipartUpload: { Parts } });
      await this.#attempt(what, signal, () => this.#client.send(complete, abortOn(signal)));
    } catch (error) {
      // A store that does not answer keeps the parts until the next sweep.
      await this.#abortParts({ ...at, UploadId }, undefined).catch(() => undefined);
      throw error;
    }
  }

  /** @returns false when somebody else was faster */
  async #abortParts(
    upload: { readonly Bucket: string; readonly Key: string | undefined; readonly UploadId: string | undefined },
    signal: AbortSignal | undefined,
  ): Promise<boolean> {
    const abort = new AbortMultipartUploadCommand(upload);
    return this.#attempt('abort a multipart upload', signal, async () => {
      try {
        await this.#client.send(abort, abortOn(signal));
        return true;
      } catch (error) {
        if (nameOf(error) === 'NoSuchUpload') {
          return false;
        }
        throw error;
      }
    });
  }

  /** The open answer, no bytes for a range behind the end, undefined when there is no such object. */
  async #open(
    read: GetObjectCommand,
    signal: AbortSignal | undefined,
  ): Promise<GetObjectCommandOutput | Uint8Array | undefined> {
    try {
      return await this.#client.send(read, abortOn(signal));
    } catch (error) {
      if (nameOf(error) === 'NoSuchKey') {
        return undefined;
      }
      if (statusOf(error) === 416) {
        return new Uint8Array();
      }
      throw error;
    }
  }

  async #attempt<Result>(what: string, signal: AbortSignal | undefined, act: () => Promise<Result>): Promise<Result> {
    try {
      return await retrying(act, signal, this.#retryPauseMs);
    } catch (error) {
      signal?.throwIfAborted();
      throw toStorageError(this.url, what, error);
    }
  }
}

const NEVER = new AbortController().signal;

function rangeHeader(range: ByteRange): string {
  return 'last' in range ? `bytes=-${range.last}` : `bytes=${range.offset}-${range.offset + range.bytes - 1}`;
}

function abortOn(signal: AbortSignal | undefined): { abortSignal?: AbortSignal } {
  return signal === undefined ? {} : { abortSignal: signal };
}
