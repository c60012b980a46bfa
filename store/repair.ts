/*
 * Makes a copy in the store whole again from the copy on the node. Packs are never changed: a damaged one is marked, its
 * chunks are sent again in new packs, and the manifest is replaced by one that does not name it. The order that must
 * hold: upload lease → marks → packs → file list → manifest; whoever reads meanwhile finds the old manifest, as damaged
 * as it was, or the new one.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { OWN_FILES } from '../core/checkpoint/file-names.ts';
import { parseManifest } from '../core/checkpoint/manifest.ts';
import type { StoreRepair } from '../core/contract/verify.ts';
import { KybernateError, isKybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import { decodePackTail } from '../core/pack/pack.ts';
import type { Backend } from './backend/backend.ts';
import { markDamaged } from './damaged.ts';
import { digestOf } from './digest.ts';
import { indexKey, manifestKey, packKey } from './keys.ts';
import { merkleRoot } from './merkle.ts';
import { readPackTail } from './pack-index.ts';
import { publishManifest } from './publish.ts';
import { surveyStore, type StoreSurvey } from './survey.ts';
import { uploadCheckpoint } from './upload.ts';

export interface RepairStoreRequest {
  readonly checkpointId: string;
  /** committed copy on the node; of its files only what is sent again is read */
  readonly dir: string;
  readonly backend: Backend;
  readonly op: Op;
  /** as in an upload */
  readonly ledgerPath: string;
  readonly packBytes?: number;
}

/**
 * Repairs what a full look at the store finds. Idempotent; a store that is whole is left alone. One call may not be
 * enough: a chunk may be taken from another pack, which this checkpoint did not use before and which is damaged, too.
 * Crash: marks and packs stay, the manifest is the old one or the new one; the next call goes on.
 * @throws CheckpointCorrupt the node's copy cannot give what the store lost: it names file and chunk; InvalidInput the
 *   store has another checkpoint of this id; StorageUnavailable, StorageDenied
 */
export async function repairStore(request: RepairStoreRequest): Promise<StoreRepair> {
  const { checkpointId, dir, backend, op, ledgerPath } = request;
  const packBytes = request.packBytes === undefined ? {} : { packBytes: request.packBytes };
  const survey = await surveyStore({ checkpointId, backend, mode: 'full', op });
  const manifest = parseManifest(await readFile(join(dir, OWN_FILES.manifest), 'utf8'), join(dir, OWN_FILES.manifest));
  if (merkleRoot(manifest.files) !== manifest.merkleRoot) {
    const file = OWN_FILES.manifest;
    throw new KybernateError(
      'CheckpointCorrupt',
      `${join(dir, file)} is damaged, too: nothing can be repaired from it`,
      {
        details: { file },
      },
    );
  }
  if (survey.published !== undefined && survey.published.merkleRoot !== manifest.merkleRoot) {
    throw new KybernateError('InvalidInput', `${backend.url} has another checkpoint of the id ${checkpointId}`, {
      details: { checkpointId, published: survey.published.merkleRoot, ours: manifest.merkleRoot },
    });
  }
  const { markedPacks, rewrittenIndexes } = await sortOut(survey, backend, op);
  const onlyIndexes = markedPacks.length === 0 && rewrittenIndexes.length === survey.report.problemCount;
  if (onlyIndexes) {
    return { markedPacks, rewrittenIndexes, newChunks: 0, sentBytes: 0 };
  }
  const source = { checkpointId, dir, backend, op, ledgerPath };
  const { newChunks, sentBytes } = await uploadCheckpoint({ ...source, manifest, ...packBytes });
  await refuseDeleted(request, survey);
  await publishManifest({ ...source, replace: true });
  op.log.info({ checkpointId, markedPacks, rewrittenIndexes, newChunks, sentBytes }, 'stored checkpoint repaired');
  return { markedPacks, rewrittenIndexes, newChunks, sentBytes };
}

/** Of the damaged packs, those whose own end is whole and of which only the copy of the index is not; marks the others. */
async function sortOut(
  { report, damagedPacks }: StoreSurvey,
  backend: Backend,
  op: Op,
): Promise<{ markedPacks: string[]; rewrittenIndexes: string[] }> {
  const markedPacks: string[] = [];
  const rewrittenIndexes: string[] = [];
  for (const pack of damagedPacks) {
    const problems = report.problems.filter((problem) => problem.pack === pack);
    const tail = problems.every(({ object }) => object === indexKey(pack)) && problems.length > 0;
    const whole = tail ? await wholeTail(backend, pack, op) : undefined;
    if (whole === undefined) {
      const reason = problems[0]?.message ?? `${packKey(pack)} is damaged`;
      await markDamaged(backend, pack, reason, op.signal);
      markedPacks.push(pack);
    } else {
      await backend.put(indexKey(pack), whole, { signal: op.signal });
      rewrittenIndexes.push(pack);
    }
  }
  return { markedPacks: markedPacks.sort(), rewrittenIndexes: rewrittenIndexes.sort() };
}

/** A deletion takes the manifest first: the repair of a checkpoint that somebody removed meanwhile must not bring it back. */
async function refuseDeleted({ checkpointId, backend, op }: RepairStoreRequest, survey: StoreSurvey): Promise<void> {
  const wasThere = survey.published !== undefined;
  if (wasThere && (await backend.head(manifestKey(checkpointId), { signal: op.signal })) === undefined) {
    throw new KybernateError(
      'CheckpointNotFound',
      `${checkpointId} was removed from ${backend.url} during its repair`,
      {
        details: { checkpointId, store: backend.url },
      },
    );
  }
}

async function wholeTail(backend: Backend, pack: string, op: Op): Promise<Uint8Array | undefined> {
  const tail = await readPackTail(backend, pack, op.signal);
  try {
    return tail === undefined ? undefined : (decodePackTail(tail, digestOf, `pack ${pack}`), tail);
  } catch (error) {
    if (isKybernateError(error, 'CheckpointCorrupt')) {
      return undefined;
    }
    throw error;
  }
}
