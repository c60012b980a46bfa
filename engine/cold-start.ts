/*
 * The last rung of a restore: a new container from the image and specification of the source, with nothing of its memory
 * and files. Registered as a restore is, so that the same steps start it, or undo it.
 */
import { existsSync } from 'node:fs';
import type { CreateColdInput } from '../core/contract/restore.ts';
import { ANNOTATIONS } from '../core/oci/annotations.ts';
import { isOwnLayer } from '../core/oci/foreign-spec.ts';
import { normalizedDestination } from '../core/oci/pod-volumes.ts';
import { namespaceReasons, restoredSpec } from '../core/oci/restored-spec.ts';
import { bindSources, type OciSpec } from '../core/oci/spec.ts';
import type { Op } from '../core/op.ts';
import { problem } from '../core/preflight.ts';
import { type Captured, specInput } from './captured.ts';
import { planGpu } from './gpu/restore-steps.ts';
import { withImageHere } from './imported-image.ts';
import type { NodeDeps } from './node-deps.ts';
import { checkToken } from './operation.ts';
import { makeOwnPlaces, ownMountsFor } from './own-places.ts';
import { asStep } from './operation-steps.ts';
import { imageFindings } from './preflight/image.ts';
import { refuseFor } from './preflight/refuse.ts';
import { endEarlierRuns, makeContainer, registerRestore, snapshotFor, type OperationRun } from './restore.ts';

/** Of the checkpoint's wishes none but who made the container: the runtime starts it as any other. */
const OF_RESTORES: readonly string[] = [
  ANNOTATIONS.restoreFrom,
  ANNOTATIONS.tcp,
  ANNOTATIONS.onFailure,
  ANNOTATIONS.unverified,
];

export function coldSpec(spec: OciSpec): OciSpec {
  const annotations = Object.entries(spec.annotations ?? {}).filter(([key]) => !OF_RESTORES.includes(key));
  return { ...spec, annotations: Object.fromEntries(annotations) };
}

/**
 * @throws Incompatible the image, a mount or a GPU is not here; InvalidInput the id belongs to another container; LockLost
 * Crash: container, snapshot and record carry the operation's id; the same call goes on, `removeRestored` undoes it.
 */
export async function createColdContainer(deps: NodeDeps, op: Op, input: ColdStart): Promise<void> {
  checkToken(deps.settings, input.context.container, input.context.token);
  await endEarlierRuns(deps, op, input);
  return asStep(input.operationId, () => createOnce(deps, op, input));
}

type ColdStart = Omit<CreateColdInput, 'from'> & OperationRun & { readonly captured: Captured };

async function createOnce(deps: NodeDeps, op: Op, input: ColdStart): Promise<void> {
  const { context, operationId } = input;
  const captured = await withImageHere(deps, context.container.namespace, input.captured);
  const { metadata } = captured;
  checkToken(deps.settings, context.container, context.token);
  const gpu = await planGpu(deps, metadata, { operationId, map: [] });
  const own = ownMountsFor(deps.settings, operationId, captured);
  const wish = { ...input, tcp: 'close', fit: gpu.plan?.fit, own } as const;
  const spec = coldSpec(restoredSpec({ ...specInput(captured, wish), onFailure: 'cold-start' }));
  const missing = metadata.mounts.filter(
    ({ captured: inside, source, destination }) =>
      !inside && !own.replaced.has(normalizedDestination(destination)) && !existsSync(source),
  );
  const findings = [
    ...gpu.findings,
    ...own.reasons.map((message) => problem('mounts', message)),
    ...(await imageFindings(deps, metadata, context.container.namespace)),
    ...namespaceReasons(spec, existsSync).map((message) => problem('container', message)),
    ...bindSources(spec)
      .filter(isOwnLayer)
      .map((source) => problem('mounts', `${source} is in the imported layer, which a cold start does not have`)),
    ...missing.map(({ destination, source }) =>
      problem('mounts', `mount ${destination}: ${source} does not exist on this node`),
    ),
  ];
  refuseFor(findings, `${context.checkpointId ?? metadata.checkpointId} started afresh`, deps);
  const { snapshotKey, snapshotter } = snapshotFor(metadata, operationId);
  registerRestore(deps, input, {
    checkpointDir: '',
    imageDir: '',
    hasMetadata: false,
    snapshotter: snapshotKey === '' ? '' : snapshotter,
    tcp: 'close',
    onFailure: 'cold-start',
    terminal: metadata.stdio.terminal,
    attempt: 0,
    cold: true,
  });
  await makeOwnPlaces(deps.settings, operationId, context.container, own.places);
  await makeContainer(deps, op, { context, operationId, metadata, spec });
}
