/* Kubernetes' objects as what they are, plain JSON: the library names them as classes, which cannot be spread. */
import type { V1Container, V1Lease, V1ObjectMeta, V1Pod, V1PodSpec, V1PodTemplateSpec } from '@kubernetes/client-node';

type Plain<Type> = Type extends Date ? Type : Type extends object ? { [Key in keyof Type]: Plain<Type[Key]> } : Type;

export type Container = Plain<V1Container>;
export type Lease = Plain<V1Lease>;
export type ObjectMeta = Plain<V1ObjectMeta>;
export type Pod = Plain<V1Pod>;
export type PodSpec = Plain<V1PodSpec>;
export type PodTemplateSpec = Plain<V1PodTemplateSpec>;
