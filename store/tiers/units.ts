/*
 * What a tier may hold, and what comes and goes together: a pack with its index is one unit, so are the manifest and
 * the file lists of a checkpoint.
 */
import { checkpointId } from '../../core/contract/common.ts';
import { checkpointOfManifest, packOfKey, PREFIX } from '../keys.ts';

export type Kind = 'pack' | 'index' | 'manifest' | 'list';

const PACK_UNIT = 'pack:';
const CHECKPOINT_UNIT = 'checkpoint:';

/** undefined: never held in a tier, such as leases, which only the store itself may answer for */
export function kindOf(key: string): Kind | undefined {
  if (key.startsWith(PREFIX.packs)) {
    return packOfKey(key) === undefined ? undefined : 'pack';
  }
  if (key.startsWith(PREFIX.index)) {
    return packOfKey(key) === undefined ? undefined : 'index';
  }
  if (checkpointOfManifest(key) !== undefined) {
    return 'manifest';
  }
  const id = /^checkpoints\/([^/]+)\/files-[0-9a-f]+\.json$/.exec(key)?.[1];
  return id !== undefined && checkpointId.safeParse(id).success ? 'list' : undefined;
}

/** The key must have a kind. */
export function unitOf(key: string): string {
  return key.startsWith(PREFIX.checkpoints)
    ? `${CHECKPOINT_UNIT}${key.split('/')[1] ?? ''}`
    : packUnit(key.split('/')[1] ?? '');
}

export function packUnit(pack: string): string {
  return `${PACK_UNIT}${pack}`;
}

/** The pack of a unit; undefined for that of a checkpoint. */
export function packOfUnit(unit: string): string | undefined {
  return unit.startsWith(PACK_UNIT) ? unit.slice(PACK_UNIT.length) : undefined;
}

/** The checkpoint of a unit; undefined for that of a pack. */
export function checkpointOfUnit(unit: string): string | undefined {
  return unit.startsWith(CHECKPOINT_UNIT) ? unit.slice(CHECKPOINT_UNIT.length) : undefined;
}
