/* A container that lives in a pid namespace with others: its pod's (`shareProcessNamespace`), or the host's. */
import { readFile } from 'node:fs/promises';
import { processIds } from '../core/checkpoint/criu-image.ts';
import { namespaceKind, type OciSpec } from '../core/oci/spec.ts';
import { namespaceInode } from '../native/proc/ns.ts';
import { readProcess } from '../native/proc/tree.ts';
import type { ContainerFacts } from './container-facts.ts';

/**
 * A process whose parent has ended goes to the first process of the pid namespace. Where that is another container's (the
 * pause of the pod), CRIU, which goes by descent, would leave it out. What came in by exec has its parent outside of the namespace.
 */
export function orphanRefusals(
  { processes, initHostPid }: Pick<ContainerFacts, 'processes' | 'initHostPid'>,
  spec: OciSpec,
): string[] {
  if (namespaceKind(spec, 'pid') !== 'joined') {
    return [];
  }
  const inside = namespaceInode(initHostPid, 'pid');
  const own = new Set(processes.map(({ hostPid }) => hostPid));
  return processes
    .filter(({ entered, state, parentHostPid }) => entered && state !== 'Z' && !own.has(parentHostPid))
    .filter(({ parentHostPid }) => namespaceInode(parentHostPid, 'pid') === inside)
    .map(
      ({ hostPid, command, parentHostPid }) =>
        `process ${hostPid} (${command}) has lost its parent and belongs to process ${parentHostPid} ` +
        `(${readProcess(parentHostPid)?.command ?? 'gone'}) of another container now, since the pod shares its pid namespace: it ` +
        'would be missing after a restore; end it, start it in the foreground, or do without shareProcessNamespace',
    );
}

/**
 * What a restore takes in the pid namespace, by CRIU's own images.
 * @returns undefined for a namespace of its own, where everything is free
 * @throws CheckpointCorrupt
 */
export async function sharedIds(spec: OciSpec, pstreeImage: string): Promise<readonly number[] | undefined> {
  return namespaceKind(spec, 'pid') === 'own' ? undefined : processIds(await readFile(pstreeImage), pstreeImage);
}
