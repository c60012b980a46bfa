/* What a container that our own restore makes mounts from the node: what is its own, and whether the rest is there. */
import { existsSync } from 'node:fs';
import { isOwnLayer } from '../../core/oci/foreign-spec.ts';
import { type GpuFit, presentSource, sourcesToCheck } from '../../core/oci/gpu-fit.ts';
import type { OwnMounts } from '../../core/oci/own-mounts.ts';
import { isBind, type OciSpec } from '../../core/oci/spec.ts';
import { caution, type Finding, problem } from '../../core/preflight.ts';

export function ownMountFindings({ reasons, emptied }: Pick<OwnMounts, 'reasons' | 'emptied'>): Finding[] {
  return [
    ...reasons.map((message) => problem('mounts', message)),
    ...emptied.map((destination) =>
      caution('mounts', `mount ${destination}: an empty directory, the checkpoint does not have the volume's content`),
    ),
  ];
}

/** @param own its places, which are made with the container */
export function missingSources(target: OciSpec, { places }: Pick<OwnMounts, 'places'>, fit?: GpuFit): Finding[] {
  const made = places.map(({ path }) => path);
  const there = sourcesToCheck([target], [], fit).filter((source) => isOwnLayer(source) || existsSync(source));
  const present = new Set([...made, ...there]);
  return (target.mounts ?? []).flatMap((mount) =>
    isBind(mount) && mount.source !== undefined && presentSource(mount.source, present, fit) === undefined
      ? [problem('mounts', `mount ${mount.destination}: ${mount.source} does not exist on this node`)]
      : [],
  );
}
