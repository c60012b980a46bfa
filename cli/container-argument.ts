/* Which container a command means: by its containerd id, by its pod, or by the input file. */
import type { ContainerTarget } from '../core/contract/common.ts';
import type { PodArgument } from './options.ts';
import { withoutUndefined } from './options.ts';
import type { FlagNames } from './validate.ts';

export interface ContainerFlags {
  readonly pod?: PodArgument;
  readonly namespace?: string;
}

export const CONTAINER_FLAGS: FlagNames = {
  container: '<container> or --pod',
  'container.id': '<container>',
  'container.namespace': '--namespace',
  'container.pod': '--pod',
};

/**
 * The field `container` of a request. Naming a container on the command line replaces the file's one: id and pod of two
 * sources do not mix.
 */
export function containerOf(container: string | undefined, flags: ContainerFlags, base: unknown): object {
  const named = container !== undefined || flags.pod !== undefined;
  return withoutUndefined({
    ...(named ? {} : (base as object | undefined)),
    ...withoutUndefined({ id: container, pod: flags.pod, namespace: flags.namespace }),
  });
}

/** As people write it. */
export function containerText({ id, pod }: Partial<Pick<ContainerTarget, 'id' | 'pod'>>): string {
  return pod === undefined ? (id ?? '') : `${pod.namespace}/${pod.name}/${pod.container}`;
}
