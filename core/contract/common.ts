/* Pieces that several contracts share. Every field is plain JSON; times are milliseconds, sizes bytes. */
import * as z from 'zod';
import {
  CHECKPOINT_ID_PATTERN,
  CONTAINER_ID_PATTERN,
  DOCKER_NAME_PATTERN,
  NAMESPACE_PATTERN,
  NODE_NAME_PATTERN,
} from '../ids.ts';

export const nodeName = z.string().regex(NODE_NAME_PATTERN, 'a node name: lower case letters, digits, dots, dashes');
export const checkpointId = z
  .string()
  .regex(CHECKPOINT_ID_PATTERN, 'a checkpoint id: lower case letters, digits, dots, dashes, at most 96 characters')
  .refine((text) => !text.includes('..'), 'a checkpoint id must not contain ".."');
export const containerId = z
  .string()
  .max(76)
  .regex(CONTAINER_ID_PATTERN, 'a containerd id: letters and digits, joined by single dots, dashes or underscores');
export const namespace = z.string().max(76).regex(NAMESPACE_PATTERN, 'a containerd namespace');
export const dockerName = z
  .string()
  .regex(DOCKER_NAME_PATTERN, 'a name of Docker: letters, digits, dots, dashes, underscores, at least two');
export const durationMs = z
  .number()
  .int()
  .min(1)
  .max(86_400_000 * 7);
export const absolutePath = z
  .string()
  .max(4096)
  .regex(/^\/[^\0]*$/, 'an absolute path')
  .refine((text) => !text.split('/').includes('..'), 'a path must not contain ".."')
  .refine((text) => text.isWellFormed(), 'a path must be Unicode text');

/**
 * Namespace, pod and container as CRI runtimes name them: wider than Kubernetes' own rules, since others speak CRI, too,
 * and nothing that could leave a directory.
 */
export const podWord = z
  .string()
  .max(253)
  .regex(/^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?$/, 'a name in Kubernetes: letters, digits, dots, dashes');

/**
 * As runc's callers name containers: wider than containerd's ids. Source: libcontainer, validateID; what begins with a dot
 * or a dash would be a place or an option.
 */
export const runtimeContainer = z.strictObject({
  id: z.string().regex(/^\w[\w+,.-]{0,254}$/, 'an id of the container runtime'),
  /** last part of runc's root: the namespace in containerd */
  namespace: z
    .string()
    .max(76)
    .regex(/^[^/\0]*$/, 'a name without slashes')
    .refine((text) => text !== '..', 'a namespace of the container runtime'),
});

/** Which container: by containerd id, by its place in a Kubernetes pod, or by its name in Docker. */
export const containerTarget = z
  .strictObject({
    /** containerd container id */
    id: containerId.optional(),
    /** containerd namespace; `default`, or `k8s.io` when `pod` is given */
    namespace: namespace.optional(),
    /** found by the labels that the CRI plug-in sets on its containers */
    pod: z
      .strictObject({
        namespace: podWord,
        name: podWord,
        container: podWord,
      })
      .optional(),
    /** name or id in the node's Docker daemon */
    docker: dockerName.optional(),
  })
  .refine(
    ({ id, pod, docker }) => [id, pod, docker].filter((way) => way !== undefined).length === 1,
    'give one of id, pod and docker',
  )
  .refine(
    ({ docker, namespace: named }) => docker === undefined || named === undefined,
    'a container of Docker has no namespace to choose',
  );
export type ContainerTarget = z.output<typeof containerTarget>;

/** Time limits of the steps; tests shrink them, users of slow machines raise them. */
export const timeouts = z.strictObject({
  /** how long a node may take to pick up a step before the node counts as unavailable */
  nodePickupMs: durationMs.default(14_000),
  /** how long to wait for the container's lock */
  lockWaitMs: durationMs.default(600_000),
  /** longest single step on the node (the freeze has its own budget) */
  stepMs: durationMs.default(3_600_000),
  /** silence after which a step's worker counts as dead */
  heartbeatMs: durationMs.default(15_000),
  /** how long an upload may wait for a store that does not answer */
  uploadMs: durationMs.default(86_400_000),
});
export type Timeouts = z.output<typeof timeouts>;
export const timeoutsWithDefaults = timeouts.prefault({});
