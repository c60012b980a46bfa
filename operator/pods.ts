/* Reading pods, and making the pod of a restore. */
import * as z from 'zod';
import { podTemplate } from '../core/contract/kubernetes.ts';
import { type LivenessProbe, livenessProbe } from '../core/contract/liveness.ts';
import { parseInput } from '../core/contract/parse.ts';
import { KybernateError } from '../core/errors.ts';
import { ANNOTATIONS } from '../core/oci/annotations.ts';
import type { Container, Pod, PodSpec, PodTemplateSpec } from './plain.ts';

/** On pods that a `Restore` has made: uid of that object. */
export const RESTORE_LABEL = 'kybernate.io/restore-uid';

/** The kubelet's view of the API server's token: added anew to every pod by the apiserver. */
const TOKEN_VOLUME = /^kube-api-access-/;
/** So that what is wrong is named by its whole path. */
const TEMPLATE = z.object({ template: podTemplate });
/** Set by the apiserver for the one pod: another one gets its own. */
const LAST_APPLIED = 'kubectl.kubernetes.io/last-applied-configuration';

/** Labels by which controllers know their pods. Source: k8s.io/api, apps/v1 and batch/v1; Argo Rollouts. */
const IN_SELECTORS = /^(?:.*pod-template-hash|(?:batch\.kubernetes\.io\/)?controller-uid)$/;
const OF_CONTROLLERS =
  /^(?:.*pod-template-hash|controller-revision-hash|pod-template-generation|(?:statefulset|apps)\.kubernetes\.io\/pod-.*|(?:batch\.kubernetes\.io\/)?(?:controller-uid|job-name|job-completion-index))$/;

/** @throws InvalidInput it has several and none is named, or none of this name */
export function containerOfPod(pod: Pod, wanted: string | undefined): string {
  const names = (pod.spec?.containers ?? []).map(({ name }) => name);
  const [only] = names;
  if (wanted === undefined && only !== undefined && names.length === 1) {
    return only;
  }
  if (wanted === undefined) {
    throw new KybernateError('InvalidInput', `spec.container: the pod has several, name one of ${names.join(', ')}`);
  }
  if (!names.includes(wanted)) {
    throw new KybernateError('InvalidInput', `spec.container: the pod has no ${wanted}, but ${names.join(', ')}`);
  }
  return wanted;
}

/** The probe by which the kubelet restarts this container now: until it has started, its startup probe is. */
export function livenessOf({ spec, status }: Pod, container: string): LivenessProbe | undefined {
  const { livenessProbe: liveness, startupProbe } = spec?.containers.find(({ name }) => name === container) ?? {};
  const hasStarted = status?.containerStatuses?.find(({ name }) => name === container)?.started === true;
  const probe = startupProbe === undefined || hasStarted ? liveness : startupProbe;
  if (probe === undefined) {
    return undefined;
  }
  const { periodSeconds, timeoutSeconds, failureThreshold } = probe;
  // What the apiserver has not filled in has its defaults.
  return livenessProbe.parse({ periodSeconds, timeoutSeconds, failureThreshold });
}

/** What another pod like this one is made of: without its node, its token, its controller, and what the apiserver has added. */
export function templateOf({ metadata, spec }: Pod): Record<string, unknown> {
  const { nodeName: _node, priority: _priority, ephemeralContainers: _debug, ...rest } = spec ?? { containers: [] };
  const withoutToken = (container: Container): Container => ({
    ...container,
    ...(container.volumeMounts === undefined
      ? {}
      : { volumeMounts: container.volumeMounts.filter(({ name }) => !TOKEN_VOLUME.test(name)) }),
  });
  const annotations = Object.entries(metadata?.annotations ?? {}).filter(
    ([name]) => name !== LAST_APPLIED && !name.startsWith(ANNOTATIONS.restoreFrom),
  );
  const clean: PodSpec = {
    ...rest,
    containers: rest.containers.map(withoutToken),
    ...(rest.initContainers === undefined ? {} : { initContainers: rest.initContainers.map(withoutToken) }),
    ...(rest.volumes === undefined ? {} : { volumes: rest.volumes.filter(({ name }) => !TOKEN_VOLUME.test(name)) }),
  };
  return {
    metadata: { labels: ownLabels(metadata), annotations: Object.fromEntries(annotations) },
    spec: clean,
  };
}

/**
 * A controller adopts a pod that has all labels of its selector, and then ends one of those that it has too many: the restored
 * one, or its source. Selectors of Deployments and Jobs hold a label that the controller has made itself; a StatefulSet
 * knows its pods by their names. Of the others nobody here knows the selector, so no label of such a pod is kept.
 */
function ownLabels(metadata: Pod['metadata']): Record<string, string> {
  const labels = Object.entries(metadata?.labels ?? {}).filter(([name]) => name !== RESTORE_LABEL);
  const kept = labels.filter(([name]) => !OF_CONTROLLERS.test(name));
  const controller = metadata?.ownerReferences?.find((owner) => owner.controller === true);
  const isFree = controller === undefined || controller.kind === 'StatefulSet';
  return isFree || labels.some(([name]) => IN_SELECTORS.test(name)) ? Object.fromEntries(kept) : {};
}

export interface RestoredPod {
  readonly namespace: string;
  readonly name: string;
  /** of the `Restore` */
  readonly uid: string;
  readonly template: Readonly<Record<string, unknown>>;
  readonly checkpointId: string;
  readonly container: string | undefined;
  readonly node: string | undefined;
  readonly runtimeClassName: string | undefined;
  /** where the template names no runtime class */
  readonly defaultRuntimeClassName: string;
  readonly tcp: 'keep' | 'close';
  readonly onFailure: 'fail' | 'cold-start';
}

/**
 * The pod whose container is restored by its annotation.
 * @returns it, and the container that is restored
 * @throws InvalidInput the template is no template of a pod, or does not have the container
 */
export function podOfRestore(wish: RestoredPod): { readonly pod: Pod; readonly container: string } {
  const template = parseInput(TEMPLATE, { template: wish.template }).template as PodTemplateSpec;
  const spec = template.spec ?? { containers: [] };
  const container = containerOfPod({ spec }, wish.container);
  const { node, runtimeClassName } = wish;
  const pod: Pod = {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      namespace: wish.namespace,
      name: wish.name,
      labels: { ...template.metadata?.labels, [RESTORE_LABEL]: wish.uid },
      annotations: {
        ...template.metadata?.annotations,
        [`${ANNOTATIONS.restoreFrom}.${container}`]: wish.checkpointId,
        [ANNOTATIONS.tcp]: wish.tcp,
        [ANNOTATIONS.onFailure]: wish.onFailure,
      },
    },
    spec: {
      ...spec,
      runtimeClassName: runtimeClassName ?? spec.runtimeClassName ?? wish.defaultRuntimeClassName,
      ...(node === undefined ? {} : { nodeSelector: { ...spec.nodeSelector, 'kubernetes.io/hostname': node } }),
    },
  };
  return { pod, container };
}
