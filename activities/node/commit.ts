/* The commit joins engine and store: the store describes the files, the engine makes the directory a checkpoint. */
import { join } from 'node:path';
import { OWN_FILES } from '../../core/checkpoint/file-names.ts';
import { encodeManifest, type Manifest } from '../../core/checkpoint/manifest.ts';
import type { CommitLocalInput, CommitLocalResult } from '../../core/contract/checkpoint.ts';
import { KybernateError } from '../../core/errors.ts';
import { commitCheckpoint, wasCommitted } from '../../engine/commit.ts';
import { checkDraft, readDraft, type MetadataDraft } from '../../engine/draft.ts';
import { readGuardReport } from '../../engine/guard-report.ts';
import { runnerPid } from '../../engine/runner-process.ts';
import type { NodeDeps } from '../../engine/node-deps.ts';
import { bootId, checkToken, operationPaths, readPlan } from '../../engine/operation.ts';
import { forgetOperation } from '../../engine/reconcile.ts';
import { describeCheckpoint } from '../../store/describe.ts';
import { signDirectory } from '../../store/crypto/signing.ts';
import { mapDiskFull, writeFileDurably } from '../../store/files.ts';
import type { ActivityOp } from '../op.ts';
import type { NodeActivityDeps } from './deps.ts';

/**
 * Idempotent: what an earlier attempt committed is reported again.
 * @throws DiskFull, CheckpointCorrupt (rebooted since the capture), LockLost (ended since)
 */
export async function commitLocal(
  { node, catalog, signingKey, trust, dataExtents }: NodeActivityDeps,
  op: ActivityOp,
  { context, labels, uploadPending }: CommitLocalInput,
): Promise<CommitLocalResult> {
  const dir = catalog.pathOf(context.checkpointId);
  if (await wasCommitted(dir)) {
    return resultOf(dir, await catalog.manifest(context.checkpointId));
  }
  const draft = await readDraft(dir);
  refuseEnded(node, op, context, draft);
  checkDraft(dir, draft);
  const manifest = await describeCheckpoint(dir, op, dataExtents === undefined ? {} : { dataExtents });
  const { merkleRoot, totalBytes } = manifest;
  await writeFileDurably(join(dir, OWN_FILES.manifest), encodeManifest(manifest)).catch((error: unknown) => {
    throw mapDiskFull(error, dir);
  });
  refuseEnded(node, op, context, await readDraft(dir));
  const groupId = node.settings.sidecarGroupId;
  const sign = async (metadataText: string): Promise<void> => {
    if (signingKey !== undefined) {
      await signDirectory(dir, metadataText, signingKey);
    }
  };
  const { checkpointId, createdAt } = await commitCheckpoint(
    dir,
    draft,
    { sign, labels, merkleRoot, totalBytes, uploadPending, groupId },
    op,
  );
  await trust?.seen?.record({ checkpointId, createdAt, merkleRoot });
  const { after = 'resume' } = readPlan(node.settings, op.operationId) ?? {};
  if (after === 'resume' && readGuardReport(operationPaths(node.settings, op.operationId)) === undefined) {
    // What its guard did is still to be told, by the step that lets the source go. Of a hold it is that step which forgets.
    forgetEnded(node, op.operationId);
  }
  return resultOf(dir, manifest);
}

/**
 * A commit that is late: its operation was ended meanwhile, and its capture removed, or is about to be.
 * @throws LockLost
 */
function refuseEnded(
  node: NodeDeps,
  { operationId }: ActivityOp,
  { container, checkpointId, token }: CommitLocalInput['context'],
  draft: MetadataDraft | undefined,
): void {
  const plan = readPlan(node.settings, operationId);
  if (plan !== undefined && plan.after !== 'resume') {
    // Held: the container is this operation's until its end. One that runs again may be another's by now.
    checkToken(node.settings, container, token);
  }
  if (plan === undefined && (draft === undefined || draft.bootId === bootId())) {
    throw new KybernateError(
      'LockLost',
      `operation ${operationId} was ended before its commit: checkpoint ${checkpointId} is not made, its capture is removed`,
    );
  }
}

/** While a runner holds the source its directory stays. */
export function forgetEnded(node: NodeDeps, operationId: string): void {
  if (runnerPid(operationPaths(node.settings, operationId)) === undefined) {
    forgetOperation(node, operationId);
  }
}

function resultOf(localPath: string, { totalBytes, merkleRoot, files }: Manifest): CommitLocalResult {
  return { localPath, totalBytes, merkleRoot, files: files.length };
}
