/*
 * What lies in the store, as root finds it: the sidecar passes on bytes, past its tiers, and says nothing about them. Who
 * signed, and whether it is what this node has committed, is looked at before.
 */
import type { PlaceReport } from '../../core/contract/verify.ts';
import { KybernateError } from '../../core/errors.ts';
import { pastCopies } from '../../store/backend/past-copies.ts';
import type { RemoteCheckpoint } from '../../store/catalog.ts';
import { checkTrust } from '../../store/fetch.ts';
import { readableRoot } from '../../store/metadata.ts';
import { surveyStore } from '../../store/survey.ts';
import { verifyRemote } from '../../store/verify.ts';
import type { SurveyInput, TransferInput, VerifyRemoteResult } from '../contract.ts';
import type { ActivityOp } from '../op.ts';
import type { NodeActivityDeps } from './deps.ts';

/** @throws SignatureInvalid; CheckpointCorrupt */
export async function verifyStored(
  deps: NodeActivityDeps,
  op: ActivityOp,
  { checkpointId }: TransferInput,
): Promise<VerifyRemoteResult> {
  const backend = pastCopies(await deps.backend());
  const accept = (remote: RemoteCheckpoint): Promise<void> => acceptStored(deps, op, remote);
  const { files, bytes } = await verifyRemote({ checkpointId, backend, op, accept });
  return { files, bytes };
}

/** @throws SignatureInvalid; never for damage */
export async function surveyStored(
  deps: NodeActivityDeps,
  op: ActivityOp,
  { checkpointId, mode }: SurveyInput,
): Promise<PlaceReport> {
  const backend = pastCopies(await deps.backend());
  const accept = (remote: RemoteCheckpoint): Promise<void> => acceptStored(deps, op, remote);
  return (await surveyStore({ checkpointId, mode, backend, op, accept })).report;
}

async function acceptStored(
  { catalog, trust }: NodeActivityDeps,
  op: ActivityOp,
  remote: RemoteCheckpoint,
): Promise<void> {
  await checkTrust(remote, trust, op);
  const { checkpointId, manifest } = remote;
  const committed = await readableRoot(catalog.pathOf(checkpointId));
  if (committed !== undefined && committed !== manifest.merkleRoot) {
    const message = `${remote.remote} is another checkpoint than that of this node: Merkle root ${manifest.merkleRoot}, here ${committed}`;
    throw new KybernateError('CheckpointCorrupt', message, { details: { checkpointId } });
  }
}
