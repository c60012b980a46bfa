/* The calls of a sidecar (proto/transfer.proto), as JSON. */
import * as z from 'zod';
import { HASH_NAME } from '../checkpoint/manifest.ts';
import { CODECS } from '../pack/pack.ts';
import { absolutePath, checkpointId, nodeName } from './common.ts';
import { PREFETCH_TIERS } from './prefetch.ts';

const tier = z.enum(['s3', 'nvme', 'ram']);
const MAX_PATHS = 64;

export const uploadCall = z.strictObject({
  checkpointId,
  /** artifact directories below a root of the sidecar; none: the committed checkpoint of this id on the node */
  paths: z.array(absolutePath).max(MAX_PATHS).default([]),
  /** how far it has to come: `s3` is the store; in the others it then lies too */
  tier: tier.default('s3'),
  /** codec of chunks that shrink */
  compress: z.enum(CODECS).default('zstd'),
  /** digest of chunks */
  hash: z.literal(HASH_NAME).default(HASH_NAME),
});

export const downloadCall = z.strictObject({
  checkpointId,
  /** where it is read: `s3` is the store, past every tier; otherwise wherever it is fastest */
  tier: tier.optional(),
  /** below a root of the sidecar; must not exist, or be empty */
  destDir: absolutePath,
  /** `yes`: the files of the checkpoint; `no`: its objects as they are stored, a store of its own */
  decompress: z.enum(['yes', 'no']).default('yes'),
});

export const prefetchCall = z.strictObject({
  checkpointId,
  targetTier: z.enum(PREFETCH_TIERS).default('nvme'),
  /** the node of this sidecar otherwise */
  targetNode: nodeName.optional(),
});

export const TRANSFER_CALLS = { upload: uploadCall, download: downloadCall, prefetch: prefetchCall } as const;
export type TransferKind = keyof typeof TRANSFER_CALLS;

export const transferId = z.string().regex(/^[0-9a-f]{16}$/, 'a transfer id: 16 hexadecimal digits');

/** What is to be done: a kind and its call, with every default. */
export type TransferTask =
  | { readonly kind: 'upload'; readonly call: z.output<typeof uploadCall> }
  | { readonly kind: 'download'; readonly call: z.output<typeof downloadCall> }
  | { readonly kind: 'prefetch'; readonly call: z.output<typeof prefetchCall> };

export const TRANSFER_ENDS = ['done', 'failed', 'cancelled'] as const;

export const transferStatus = z.object({
  transferId,
  kind: z.enum(['upload', 'download', 'prefetch']),
  checkpointId,
  status: z.enum(['queued', 'running', ...TRANSFER_ENDS]),
  /** done so far; of an upload: read of the files */
  bytes: z.number(),
  /** absent: not known yet */
  totalBytes: z.number().optional(),
  /** Merkle root of the checkpoint, when it is known */
  hash: z.string().optional(),
  error: z.object({ type: z.string(), message: z.string() }).optional(),
  /** URL of the manifest, or the directory */
  location: z.string().optional(),
});
export type TransferStatus = z.output<typeof transferStatus>;

export function hasEnded({ status }: TransferStatus): boolean {
  return TRANSFER_ENDS.some((end) => end === status);
}
