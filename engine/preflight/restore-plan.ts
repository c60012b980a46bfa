/* What the plan of a restore says of the specifications of source and target: it is made, and thrown away. */
import { existsSync } from 'node:fs';
import { KybernateError } from '../../core/errors.ts';
import { isOwnLayer } from '../../core/oci/foreign-spec.ts';
import { type GpuFit, sourcesToCheck } from '../../core/oci/gpu-fit.ts';
import { restorePlan } from '../../core/oci/restore-plan.ts';
import type { OciSpec } from '../../core/oci/spec.ts';
import { caution, type Finding, problem } from '../../core/preflight.ts';
import type { Captured } from '../captured.ts';

export function planReasons(
  { metadata, spec }: Captured,
  target: OciSpec,
  place: { readonly id: string; readonly imageDir: string; readonly tcp: 'keep' | 'close'; readonly fit?: GpuFit },
): Finding[] {
  const { id, imageDir, tcp, fit } = place;
  const hookSources = (metadata.hookMounts ?? []).map(({ source }) => source);
  const sources = sourcesToCheck([spec, target], hookSources, fit);
  const findings: Finding[] = [];
  try {
    const { warnings } = restorePlan({
      newSpec: target,
      capturedSpec: spec,
      metadata,
      create: { globals: [], root: '/', logFormat: 'json', id, noPivot: false },
      bundle: '/',
      imageDir,
      workDir: '/',
      tcp,
      presentSources: new Set(sources.filter((path) => isOwnLayer(path) || existsSync(path))),
      ...(fit === undefined ? {} : { gpu: fit }),
    });
    findings.push(...warnings.map((message) => caution('container', message)));
  } catch (error) {
    findings.push(...planFindings(error));
  }
  if (tcp === 'keep' && metadata.capture.tcp === 'close') {
    findings.push(caution('container', 'the checkpoint was taken with its connections closed: they cannot be kept'));
  }
  return findings;
}

function planFindings(error: unknown): readonly Finding[] {
  const reasons = error instanceof KybernateError ? error.details['reasons'] : undefined;
  if (!Array.isArray(reasons)) {
    throw error;
  }
  return reasons.map(String).map((message) => problem(message.startsWith('mount ') ? 'mounts' : 'container', message));
}
