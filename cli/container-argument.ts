/* Which container a command means: by its containerd id, by its pod, by its name in Docker, or by the input file. */
import type { ContainerTarget } from '../core/contract/common.ts';
import type { CheckpointSummary } from '../store/registry.ts';
import type { PodArgument } from './options.ts';
import { withoutUndefined } from './options.ts';
import type { FlagNames } from './validate.ts';

export interface ContainerFlags {
  readonly pod?: PodArgument;
  readonly docker?: string;
  readonly namespace?: string;
}

export const CONTAINER_FLAGS: FlagNames = {
  container: '<container>, --pod or --docker',
  'container.id': '<container>',
  'container.namespace': '--namespace',
  'container.pod': '--pod',
  'container.docker': '--docker',
};

type CapturedContainer = CheckpointSummary['container'];

/**
 * The field `container` of a request. Naming a container on the command line replaces the file's one: id and pod of two
 * sources do not mix.
 */
export function containerOf(container: string | undefined, flags: ContainerFlags, base: unknown): object {
  const named = container !== undefined || flags.pod !== undefined || flags.docker !== undefined;
  return withoutUndefined({
    ...(named ? {} : (base as object | undefined)),
    ...withoutUndefined({ id: container, pod: flags.pod, docker: flags.docker, namespace: flags.namespace }),
  });
}

/** Of a checkpoint that was taken: by the name that people know, which is not always its id in containerd. */
export function capturedName({ namespace, id, pod, docker }: CapturedContainer): string {
  return pod === undefined && docker === undefined
    ? `${namespace}/${id}`
    : containerText({
        ...(pod === undefined ? {} : { pod }),
        ...(docker === undefined ? {} : { docker: docker.name }),
      });
}

/** As people write it. */
export function containerText({ id, pod, docker }: Partial<Pick<ContainerTarget, 'id' | 'pod' | 'docker'>>): string {
  if (docker !== undefined) {
    return `docker/${docker}`;
  }
  return pod === undefined ? (id ?? '') : `${pod.namespace}/${pod.name}/${pod.container}`;
}
