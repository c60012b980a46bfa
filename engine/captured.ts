/* What a committed checkpoint says of its source, and the specification of a container that continues it. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { OWN_FILES } from '../core/checkpoint/file-names.ts';
import type { Metadata } from '../core/checkpoint/metadata.ts';
import type { RestoreContext } from '../core/contract/restore.ts';
import { KybernateError } from '../core/errors.ts';
import { findingDetails, problem, type Finding } from '../core/preflight.ts';
import type { GpuFit } from '../core/oci/gpu-fit.ts';
import type { OwnMounts } from '../core/oci/own-mounts.ts';
import type { restoredSpec } from '../core/oci/restored-spec.ts';
import { type OciSpec, parseSpec } from '../core/oci/spec.ts';
import { readMetadata } from './restore-source.ts';

export interface Captured {
  readonly metadata: Metadata;
  readonly spec: OciSpec;
}

/** @throws CheckpointNotFound, CheckpointCorrupt */
export function readCaptured(checkpointDir: string): Captured {
  const metadata = readMetadata(checkpointDir);
  refuseProcesses(metadata);
  const file = join(checkpointDir, OWN_FILES.spec);
  return { metadata, spec: parseSpec(readFileSync(file, 'utf8'), file) };
}

/** Processes of a host have no specification to make a container of. */
export function noContainer({ checkpointId }: Pick<Metadata, 'checkpointId'>): Finding {
  return problem('container', `${checkpointId} is of processes of a host, not of a container`, {
    remedy: `kybernate process restore ${checkpointId}`,
  });
}

/** @throws Incompatible */
export function refuseProcesses(metadata: Metadata): void {
  if (metadata.process !== undefined) {
    const finding = noContainer(metadata);
    throw new KybernateError('Incompatible', `${finding.message}: ${finding.remedy}`, {
      details: findingDetails([finding]),
    });
  }
}

export interface SpecWish {
  readonly operationId: string;
  readonly context: Pick<RestoreContext, 'checkpointId' | 'path' | 'container'>;
  readonly tcp: 'keep' | 'close';
  readonly networkNamespace?: string;
  readonly fit: GpuFit | undefined;
  readonly own: OwnMounts;
}

export function specInput(
  { metadata, spec }: Captured,
  { operationId, context, tcp, networkNamespace, fit, own }: SpecWish,
): Omit<Parameters<typeof restoredSpec>[0], 'onFailure'> {
  return {
    captured: spec,
    source: { namespace: metadata.container.namespace, id: metadata.container.id },
    container: context.container,
    operationId,
    restoreFrom: context.checkpointId ?? context.path ?? metadata.checkpointId,
    tcp,
    unverified: context.path !== undefined,
    ...(own.replaced.size === 0 ? {} : { mounts: own.mounts }),
    ...(networkNamespace === undefined ? {} : { networkNamespace }),
    ...(fit === undefined ? {} : { gpu: fit }),
  };
}
