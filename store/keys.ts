/*
 * Names of the objects in a store; the layout is public (docs/format.md).
 *
 *   packs/<pack id>                        chunks, with their index at the end
 *   index/<pack id>                        copy of that index, written after the pack
 *   checkpoints/<id>/files-<digest>.json   file list, written before the manifest
 *   checkpoints/<id>/manifest.json         last: its presence is the publication
 *   leases/<lease id>.json                 who reads or writes, until when
 *   condemned/<id>.json                    packs that are about to be deleted
 *   damaged/<pack id>                      this pack was found damaged: no writer relies on it
 */
import { packId } from '../core/checkpoint/manifest.ts';
import { checkpointId } from '../core/contract/common.ts';

export const PREFIX = {
  packs: 'packs/',
  index: 'index/',
  checkpoints: 'checkpoints/',
  leases: 'leases/',
  condemned: 'condemned/',
  damaged: 'damaged/',
} as const;

export function packKey(id: string): string {
  return `${PREFIX.packs}${id}`;
}

export function indexKey(id: string): string {
  return `${PREFIX.index}${id}`;
}

export function manifestKey(id: string): string {
  return `${PREFIX.checkpoints}${id}/manifest.json`;
}

export function fileListKey(id: string, digest: string): string {
  return `${PREFIX.checkpoints}${id}/files-${digest.slice(0, 16)}.json`;
}

export function leaseKey(id: string): string {
  return `${PREFIX.leases}${id}.json`;
}

export function condemnedKey(id: string): string {
  return `${PREFIX.condemned}${id}.json`;
}

export function damagedKey(pack: string): string {
  return `${PREFIX.damaged}${pack}`;
}

/** The checkpoint whose manifest this is; undefined for other objects. */
export function checkpointOfManifest(key: string): string | undefined {
  const id = /^checkpoints\/([^/]+)\/manifest\.json$/.exec(key)?.[1];
  return id !== undefined && checkpointId.safeParse(id).success ? id : undefined;
}

/** The pack id in `packs/<id>`, `index/<id>` or `damaged/<id>`; undefined for foreign objects. */
export function packOfKey(key: string): string | undefined {
  const id = key.slice(key.indexOf('/') + 1);
  return packId.safeParse(id).success ? id : undefined;
}
