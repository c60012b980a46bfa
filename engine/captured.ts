/* What a committed checkpoint says of its source, and the specification of a container that continues it. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { OWN_FILES } from '../core/checkpoint/file-names.ts';
import type { Metadata } from '../core/checkpoint/metadata.ts';
import type { RestoreContext } from '../core/contract/restore.ts';
import type { GpuFit } from '../core/oci/gpu-fit.ts';
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
  const file = join(checkpointDir, OWN_FILES.spec);
  return { metadata, spec: parseSpec(readFileSync(file, 'utf8'), file) };
}

export interface SpecWish {
  readonly operationId: string;
  readonly context: Pick<RestoreContext, 'checkpointId' | 'path' | 'container'>;
  readonly tcp: 'keep' | 'close';
  readonly networkNamespace?: string;
  readonly fit: GpuFit | undefined;
}

export function specInput(
  { metadata, spec }: Captured,
  { operationId, context, tcp, networkNamespace, fit }: SpecWish,
): Omit<Parameters<typeof restoredSpec>[0], 'onFailure'> {
  return {
    captured: spec,
    source: { namespace: metadata.container.namespace, id: metadata.container.id },
    container: context.container,
    operationId,
    restoreFrom: context.checkpointId ?? context.path ?? metadata.checkpointId,
    tcp,
    unverified: context.path !== undefined,
    ...(networkNamespace === undefined ? {} : { networkNamespace }),
    ...(fit === undefined ? {} : { gpu: fit }),
  };
}
