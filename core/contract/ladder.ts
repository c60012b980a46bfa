/*
 * What a restore tries, one rung after the other, and what became of each. A rung is tried only when it can help against
 * what went wrong before, and after everything that the one before had made is gone.
 */
import type { ErrorType } from '../errors.ts';

export const RUNGS = {
  'local-copy': 'the copy on the node',
  'other-tier': 'the store, through the tiers of the node and of its peers',
  peer: 'a copy on the node of the checkpoint, or on one of `peers`, which brings it to the store first',
  'another-gpu': 'other GPUs of the same model on the same node',
  'another-node': 'the nodes of `otherNodes`, one after the other',
  'older-checkpoint': 'older checkpoints of the same container, the newest first, at most five',
  'cold-start': 'the container anew from its image and specification: nothing of the checkpoint but its configuration',
} as const;
export type Rung = keyof typeof RUNGS;
export const RUNG_NAMES = Object.keys(RUNGS) as [Rung, ...Rung[]];

/** These give the caller what was asked for; the others only by name. */
export const DEFAULT_LADDER: readonly Rung[] = ['local-copy', 'other-tier', 'peer', 'another-gpu'];

const BYTES: readonly ErrorType[] = ['CheckpointCorrupt', 'CheckpointNotFound'];
const PLACE: readonly ErrorType[] = ['Incompatible', 'GpuUnsupported', 'GpuBusy', 'GpuOutOfMemory', 'DiskFull'];

/** Error → rungs that may get further. What is in no list ends the ladder: a refusal, a denial, somebody else's lock. */
export const HELPS: Readonly<Record<Rung, readonly ErrorType[]>> = {
  'local-copy': BYTES,
  'other-tier': BYTES,
  peer: BYTES,
  'another-gpu': ['GpuOutOfMemory', 'GpuBusy', 'RestoreFailed'],
  'another-node': [...BYTES, ...PLACE, 'RestoreFailed', 'NodeUnavailable', 'StorageUnavailable'],
  'older-checkpoint': [...BYTES, 'Incompatible', 'RestoreFailed', 'StorageUnavailable'],
  'cold-start': [...BYTES, ...PLACE, 'RestoreFailed', 'StorageUnavailable'],
};

/** @param type of the last failure; undefined before the first */
export function canHelp(rung: Rung, type: string | undefined): boolean {
  return type === undefined || (HELPS[rung] as readonly string[]).includes(type);
}

export interface RungReport {
  readonly rung: Rung;
  readonly node: string;
  readonly checkpointId?: string;
  /** the copy that was taken, or looked for */
  readonly from?: 'local' | 'store';
  /** `skipped`: it could not help, or nothing was named for it */
  readonly outcome: 'restored' | 'cold-started' | 'failed' | 'not-there' | 'skipped';
  /** type of the error */
  readonly type?: string;
  readonly reason?: string;
}

/** A copy that was found damaged; `kybernate repair` makes it whole unless the restore has replaced it. */
export interface DamagedCopy {
  readonly place: 'node' | 'store';
  /** whose copy it is, or who read the store */
  readonly node: string;
  readonly checkpointId: string;
  readonly reason: string;
}

/** `local-copy: CheckpointCorrupt; other-tier: restored`. */
export function rungsText(rungs: readonly RungReport[]): string {
  return rungs
    .map(({ rung, outcome, type, node, checkpointId }) => {
      const where = ['another-node', 'peer'].includes(rung) ? ` ${node}` : '';
      const which = rung === 'older-checkpoint' && checkpointId !== undefined ? ` ${checkpointId}` : '';
      return `${rung}${where}${which}: ${type ?? outcome}`;
    })
    .join('; ');
}
