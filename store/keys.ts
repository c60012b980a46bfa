/*
 * Names of the objects in a store; the layout is public (docs/format.md).
 *
 *   packs/<pack id>                        chunks, with their index at the end
 *   index/<pack id>                        copy of that index, written after the pack
 *   checkpoints/<id>/files-<digest>.json   file list, written before the manifest
 *   checkpoints/<id>/manifest.json         last: its presence is the publication
 *   checkpoints/<id>/verified-<digest>.json  this content was read back, every byte
 *   leases/<lease id>.json                 who reads or writes, until when
 *   condemned/<id>.json                    packs that are about to be deleted
 *   registry/checkpoints.zst               what a list shows of the manifests; never needed
 *   damaged/<pack id>                      this pack was found damaged: no writer relies on it
 *   keys/address.json                      encrypted store: id of the key that makes addresses
 *   keys/<key id>/<wrapping key>.json      encrypted store: one key, wrapped by one key-encryption key
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
  keys: 'keys/',
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

/** What a sealed file list is bound to: its key cannot be, since that is made from the sealed bytes. */
export function fileListName(id: string): string {
  return `${PREFIX.checkpoints}${id}/files`;
}

export const ADDRESS_POINTER_KEY = `${PREFIX.keys}address.json`;

export function wrappedKeyPrefix(id: string): string {
  return `${PREFIX.keys}${id}/`;
}

export function wrappedKeyKey(id: string, wrappedBy: string): string {
  return `${wrappedKeyPrefix(id)}${wrappedBy}.json`;
}

/** The two ids in `keys/<key id>/<wrapping key>.json`; undefined for other objects. */
export function wrappedCopyOfKey(key: string): { readonly id: string; readonly wrappedBy: string } | undefined {
  const found = /^keys\/([0-9a-f]{16})\/([a-z0-9-]+)\.json$/.exec(key);
  return found?.[1] === undefined || found[2] === undefined ? undefined : { id: found[1], wrappedBy: found[2] };
}

export const REGISTRY_KEY = 'registry/checkpoints.zst';

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
