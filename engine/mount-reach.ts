/*
 * Bind mounts of a container in a user namespace. CRIU mounts them again as the root of that namespace, an ordinary user of
 * the host, who must be able to walk to their sources. Source: CRIU 4.2, criu/mount-v2.c (restore_ext_mount).
 */
import { statSync } from 'node:fs';
import { dirname } from 'node:path';
import { bindSources, type OciSpec } from '../core/oci/spec.ts';
import { type HostOwner, mappedRoot } from '../core/oci/user-namespace.ts';

/** Why bind mounts could not be made again on this node; none without a user namespace. What is missing is told elsewhere. */
export function unreachableSources(spec: OciSpec): string[] {
  const reader = mappedRoot(spec);
  if (reader === undefined) {
    return [];
  }
  const sources = bindSources(spec).filter((source) => source.startsWith('/'));
  return [...new Set(sources)].flatMap((source) => {
    const closed = ancestors(source).find((dir) => !mayWalkThrough(dir, reader));
    return closed === undefined
      ? []
      : [
          `the bind mount of ${source}: user ${reader.uid}, the root of its user namespace, may not walk through ${closed}, ` +
            `so CRIU could not make the mount again: chmod o+x ${closed}, or mount from elsewhere`,
        ];
  });
}

/** Outermost first. */
function ancestors(path: string): string[] {
  const parent = dirname(path);
  return parent === path ? [] : [...ancestors(parent), parent];
}

function mayWalkThrough(dir: string, { uid, gid }: HostOwner): boolean {
  const stats = statSync(dir, { throwIfNoEntry: false });
  if (stats === undefined) {
    return true;
  }
  const bit = stats.uid === uid ? 0o100 : stats.gid === gid ? 0o010 : 0o001;
  return (stats.mode & bit) !== 0;
}
