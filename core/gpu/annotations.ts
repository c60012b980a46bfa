/* What a container's own annotations say about its GPU processes; what a workflow's caller says comes first. */
import { workloadHook, type GpuOptions, type WorkloadHook } from '../contract/gpu.ts';
import { KybernateError } from '../errors.ts';
import { ANNOTATIONS, ownAnnotation } from '../oci/annotations.ts';
import type { OciSpec } from '../oci/spec.ts';

/** @throws InvalidInput an annotation has a value that it cannot have */
export function withAnnotations(options: GpuOptions, spec: Pick<OciSpec, 'annotations'>): GpuOptions {
  const quiesce = options.quiesce ?? hookOf(spec, ANNOTATIONS.gpuQuiesce);
  const resume = options.resume ?? hookOf(spec, ANNOTATIONS.gpuResume);
  return {
    ...options,
    assumeSafe: options.assumeSafe || assumesSafe(spec),
    ...(quiesce === undefined ? {} : { quiesce }),
    ...(resume === undefined ? {} : { resume }),
  };
}

function assumesSafe(spec: Pick<OciSpec, 'annotations'>): boolean {
  const text = ownAnnotation(spec, ANNOTATIONS.gpuAssumeSafe) ?? 'false';
  if (text !== 'true' && text !== 'false') {
    throw new KybernateError(
      'InvalidInput',
      `annotation ${ANNOTATIONS.gpuAssumeSafe}: ${JSON.stringify(text)} is none of true, false`,
    );
  }
  return text === 'true';
}

function hookOf(spec: Pick<OciSpec, 'annotations'>, key: string): WorkloadHook | undefined {
  const text = ownAnnotation(spec, key);
  if (text === undefined) {
    return undefined;
  }
  const parsed = workloadHook.safeParse({ command: parseJson(text) });
  if (!parsed.success) {
    throw new KybernateError(
      'InvalidInput',
      `annotation ${key}: ${JSON.stringify(text)} is no JSON array of a program and its arguments`,
    );
  }
  return parsed.data;
}

/** Null, which no schema takes, for what is no JSON. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    // SyntaxError: the caller's schema says what was expected.
    return null;
  }
}
