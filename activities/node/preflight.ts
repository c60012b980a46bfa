/* Looks at this node for a restore or a checkpoint, and touches nothing. */
import { OWN_FILES } from '../../core/checkpoint/file-names.ts';
import type { PreflightRestoreInput, PreflightStepResult } from '../../core/contract/preflight.ts';
import { parseSpec } from '../../core/oci/spec.ts';
import { refuseProcesses, type Captured } from '../../engine/captured.ts';
import { surveyDockerRestore } from '../../engine/docker/restore.ts';
import { surveyContainer } from '../../engine/preflight/container.ts';
import { nameFindings } from '../../engine/preflight/image.ts';
import { surveyRestore } from '../../engine/preflight/restore.ts';
import type { Op } from '../../core/op.ts';
import { fileOf, openDirectoryCopy, type CheckpointCopy } from '../../store/copy.ts';
import { parseMetadata } from '../../store/metadata.ts';
import { openStoredCopy } from '../../store/segment.ts';
import type { NodeControlActivities } from '../contract.ts';
import { withOp, type ActivityOp } from '../op.ts';
import type { NodeActivityDeps } from './deps.ts';

type Preflights = 'preflightRestore' | 'preflightCheckpoint';

export function preflightControl(deps: NodeActivityDeps): Pick<NodeControlActivities, Preflights> {
  return {
    preflightRestore: (input) => withOp({}, (op) => preflightRestore(deps, op, input)),
    preflightCheckpoint: (input) =>
      withOp({}, (op) => surveyContainer(deps.node, { operationId: op.operationId, op }, input)),
  };
}

/** @throws CheckpointNotFound, CheckpointCorrupt its description is damaged, and the errors of the store */
async function preflightRestore(
  deps: NodeActivityDeps,
  op: ActivityOp,
  input: PreflightRestoreInput,
): Promise<PreflightStepResult> {
  const captured = await readDescription(deps, op, input);
  const begun = performance.now();
  const { checkpointId, container, from, name = false, ...wish } = input;
  const survey = wish.docker === true ? surveyDockerRestore : surveyRestore;
  const { findings } = await survey(deps.node, captured, {
    ...wish,
    operationId: op.operationId,
    context: { checkpointId, container },
    checkpointDir: deps.catalog.pathOf(checkpointId),
    missingBytes: from === 'store' ? captured.metadata.sizes.totalBytes : 0,
  });
  const names = name ? await nameFindings(deps.node, container) : [];
  return { container, findings: [...findings, ...names], checkMs: performance.now() - begun };
}

/** Of a checkpoint in the store little more is read than what describes it. */
export async function readDescription(
  { catalog, backend }: NodeActivityDeps,
  op: Op,
  { checkpointId, from }: Pick<PreflightRestoreInput, 'checkpointId' | 'from'>,
): Promise<Captured> {
  const copy =
    from === 'local'
      ? await openDirectoryCopy(catalog.pathOf(checkpointId), op)
      : await openStoredCopy(await backend(), checkpointId, op);
  try {
    const metadata = parseMetadata(copy.metadataText, `metadata of ${checkpointId}`);
    refuseProcesses(metadata);
    return { metadata, spec: parseSpec(await textOf(copy, OWN_FILES.spec), `${OWN_FILES.spec} of ${checkpointId}`) };
  } finally {
    await copy.close();
  }
}

async function textOf(copy: CheckpointCopy, path: string): Promise<string> {
  const pieces: Uint8Array[] = [];
  for await (const piece of copy.read(fileOf(copy, path))) {
    // A piece is valid until the next one is asked for.
    pieces.push(Uint8Array.from(piece));
  }
  return Buffer.concat(pieces).toString('utf8');
}
