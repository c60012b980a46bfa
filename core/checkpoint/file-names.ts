/*
 * Every name in a checkpoint directory, grouped by who writes it. Nobody else spells them.
 */

/** Committed last (temporary file, fsync, rename, fsync of the directory): its presence is the commit. */
export const METADATA_FILE = 'metadata.json';

/** Ours, beside the metadata. */
export const OWN_FILES = {
  /** files → segments → chunks with their digests; made on the node, before any byte leaves it */
  manifest: 'manifest.json',
  /** who vouches for metadata and manifest; absent when nobody signed; not part of the content */
  signature: 'signature.json',
  /** OCI specification of the source as captured */
  spec: 'config.json',
  /** present while a wanted upload is not published; not part of the checkpoint */
  uploadPending: 'upload.pending',
  /** packs that this checkpoint has already sent; removed by the publication; not part of the checkpoint */
  uploadLedger: 'upload.ledger',
} as const;

/** CRIU's images, VRAM inside. */
export const CRIU_DIR = 'criu';
/** Devices and state per GPU process; absent without one. */
export const CUDA_DIR = 'cuda';
export const CUDA_FILES = { state: 'cuda/state.json' } as const;

export const FS_DIR = 'fs';
export const FS_FILES = {
  /** added and changed paths of the rw layer, a pax tar without overlayfs' own whiteouts and attributes */
  rootfsDiff: 'fs/rootfs-diff.tar',
  /** files that CRIU linked for open files without a name; unpacked like the diff, consumed by the restore */
  linkRemap: 'fs/link-remap.tar',
  /** JSON list of deleted paths, relative to the root, to be removed before the tar is unpacked */
  deletedFiles: 'fs/deleted.files',
  /** content of a /dev/shm that comes from outside the container */
  devShm: 'fs/dev-shm.tar',
} as const;

/** Content of a volume of the container's pod, numbered from 0. */
export function volumeFile(index: number): string {
  return `${FS_DIR}/volume-${index}.tar`;
}

/** What an archive of another engine had and a checkpoint of ours has no place for; as it was. */
export const ORIGIN_DIR = 'origin';

export const LOGS_DIR = 'logs';
export const LOG_FILES = {
  dump: 'logs/dump.log',
  runc: 'logs/runc.log',
  /** CRIU's own times and counts of the dump */
  stats: 'logs/stats-dump',
  events: 'logs/events.jsonl',
} as const;

/** Directory of a checkpoint below the node's `checkpoints` directory. */
export function checkpointDirName(checkpointId: string): string {
  return `checkpoint-${checkpointId}`;
}
