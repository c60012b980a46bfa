/* Which checkpoints of a list are meant: the options that `ls` and `rm` share. */
import type { Command } from 'commander';
import type { ListedCheckpoint } from './all-checkpoints.ts';
import { durationArgument, labelArgument } from './options.ts';

export interface FilterFlags {
  readonly label?: Readonly<Record<string, string>>;
  readonly container?: string;
  readonly node?: string;
  readonly olderThan?: number;
}

export function addFilterOptions(command: Command): Command {
  return command
    .option('--label <name=value>', 'only those with this label; several: with all of them', labelArgument)
    .option(
      '--container <name>',
      'only those of this container: its id, namespace/id, namespace/pod/container, or docker/name',
    )
    .option('--node <name>', 'only those that were taken on this node')
    .option('--older-than <duration>', 'only those taken longer ago than this, for example 7d', durationArgument);
}

export function hasFilter({ label, container, node, olderThan }: FilterFlags): boolean {
  return label !== undefined || container !== undefined || node !== undefined || olderThan !== undefined;
}

/** Every filter that is given must fit. */
export function matches(flags: FilterFlags, { metadata }: ListedCheckpoint, nowMs: number): boolean {
  const { label = {}, container, node, olderThan } = flags;
  const { id, namespace, pod, docker } = metadata.container;
  const names = [
    id,
    `${namespace}/${id}`,
    pod && `${pod.namespace}/${pod.name}/${pod.container}`,
    docker && `docker/${docker.name}`,
  ];
  return (
    Object.entries(label).every(([name, value]) => metadata.labels[name] === value) &&
    (container === undefined || names.includes(container)) &&
    (node === undefined || metadata.node.name === node) &&
    (olderThan === undefined || nowMs - Date.parse(metadata.createdAt) > olderThan)
  );
}
