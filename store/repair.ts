/*
 * Makes a copy in the store whole again: from whole copies of packs in tiers, and from the copy on the node. A pack is
 * never changed: it is put again with the bytes that it always had, or it is marked, its chunks are sent again in new
 * packs, and the manifest is replaced by one that does not name it. The order that must hold: upload lease → marks → packs → file list → manifest; whoever reads meanwhile finds the old manifest, as damaged
 * as it was, or the new one.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { OWN_FILES } from '../core/checkpoint/file-names.ts';
import { parseManifest } from '../core/checkpoint/manifest.ts';
import type { StoreRepair } from '../core/contract/verify.ts';
import { KybernateError, isKybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import { decodePackTail, PACK_ENTRY_BYTES, PACK_FOOTER_BYTES, PACK_HEADER } from '../core/pack/pack.ts';
import type { Backend } from './backend/backend.ts';
import { markDamaged, unmarkDamaged } from './damaged.ts';
import { digestOf } from './digest.ts';
import { indexKey, manifestKey, packKey } from './keys.ts';
import { merkleRoot } from './merkle.ts';
import { readPackTail } from './pack-index.ts';
import { publishManifest } from './publish.ts';
import { surveyStore, type StoreSurvey } from './survey.ts';
import { checkPack } from './tiers/check-pack.ts';
import { uploadCheckpoint } from './upload.ts';
import { damage } from './verify.ts';

export interface RepairStoreRequest {
  readonly checkpointId: string;
  /** committed copy on the node, of whose files only what is sent again is read; absent: there is none */
  readonly dir?: string | undefined;
  readonly backend: Backend;
  /** what is looked at, where `backend` answers from copies before the store */
  readonly behind?: Backend;
  /** other copies of packs: tiers */
  readonly copies?: Pick<Backend, 'get'>;
  readonly op: Op;
  /** as in an upload */
  readonly ledgerPath: string;
  readonly packBytes?: number;
}

/**
 * Repairs what a full look at the store finds. Idempotent; a store that is whole is left alone. One call may not be
 * enough: a chunk may be taken from another pack, which this checkpoint did not use before and which is damaged, too.
 * Crash: marks and packs stay, the manifest is the old one or the new one; the next call goes on.
 * @throws CheckpointCorrupt the node's copy cannot give what the store lost, or there is none: it names what is lost;
 *   InvalidInput the store has another checkpoint of this id; StorageUnavailable, StorageDenied
 */
export async function repairStore(request: RepairStoreRequest): Promise<StoreRepair> {
  const { checkpointId, backend, op } = request;
  const survey = await surveyStore({ checkpointId, backend: request.behind ?? backend, mode: 'full', op });
  const sorted = await sortOut(survey, request);
  const sent = isRepaired(survey, sorted) ? { newChunks: 0, sentBytes: 0 } : await sendAgain(request, survey);
  op.log.info({ checkpointId, ...sorted, ...sent }, 'stored checkpoint repaired');
  return { ...sorted, ...sent };
}

/** Nothing was damaged but packs, and all of them are whole again; chunks that no index showed were in them. */
function isRepaired({ report, damagedPacks }: StoreSurvey, { restoredPacks, rewrittenIndexes }: Sorted): boolean {
  const packsDone = restoredPacks.length + rewrittenIndexes.length;
  const ofPacks = report.problems.every(({ pack, chunk }) => pack !== undefined || chunk !== undefined);
  return report.ok || (packsDone > 0 && packsDone === damagedPacks.size && ofPacks);
}

/** What is damaged and comes from nowhere else is sent again from the node, and the manifest replaced. */
async function sendAgain(
  request: RepairStoreRequest,
  survey: StoreSurvey,
): Promise<Pick<StoreRepair, 'newChunks' | 'sentBytes'>> {
  const { checkpointId, dir, backend, op, ledgerPath } = request;
  if (dir === undefined) {
    const first = survey.report.problems[0]?.message ?? `${checkpointId} is not there`;
    throw new KybernateError('CheckpointCorrupt', `${first}; this node has no copy to repair it from`, {
      details: { problems: survey.report.problems.slice(0, 20) },
    });
  }
  const path = join(dir, OWN_FILES.manifest);
  const manifest = parseManifest(await readFile(path, 'utf8'), path);
  if (merkleRoot(manifest.files) !== manifest.merkleRoot) {
    throw damage('damaged', `${path} is damaged, too: nothing can be repaired from it`, { file: OWN_FILES.manifest });
  }
  if (survey.published !== undefined && survey.published.merkleRoot !== manifest.merkleRoot) {
    throw new KybernateError('InvalidInput', `${backend.url} has another checkpoint of the id ${checkpointId}`, {
      details: { checkpointId, published: survey.published.merkleRoot, ours: manifest.merkleRoot },
    });
  }
  const source = { checkpointId, dir, backend, op, ledgerPath };
  const packBytes = request.packBytes === undefined ? {} : { packBytes: request.packBytes };
  const { newChunks, sentBytes } = await uploadCheckpoint({ ...source, manifest, ...packBytes });
  await refuseDeleted(request, survey);
  await publishManifest({ ...source, replace: true });
  return { newChunks, sentBytes };
}

type Sorted = Pick<StoreRepair, 'markedPacks' | 'restoredPacks' | 'rewrittenIndexes'>;

/**
 * Of the damaged packs: those of which only the copy of the index is damaged get a new one; those of which there is a
 * whole copy are put again, under their id, since that always means the same bytes; the others are marked.
 */
async function sortOut(survey: StoreSurvey, request: RepairStoreRequest): Promise<Sorted> {
  const { backend, behind = backend, op } = request;
  const { report, damagedPacks, published } = survey;
  const sorted = { markedPacks: [] as string[], restoredPacks: [] as string[], rewrittenIndexes: [] as string[] };
  for (const pack of [...damagedPacks].sort()) {
    const problems = report.problems.filter((problem) => problem.pack === pack);
    const onlyIndex = problems.length > 0 && problems.every(({ object }) => object === indexKey(pack));
    const tail = onlyIndex ? await wholeTail(behind, pack, op) : undefined;
    const packBytes = published?.packs.find(([id]) => id === pack)?.[1];
    const copy = tail === undefined ? await wholeCopy(request, pack, packBytes) : undefined;
    if (tail !== undefined) {
      await backend.put(indexKey(pack), tail, { signal: op.signal });
      sorted.rewrittenIndexes.push(pack);
    } else if (copy !== undefined) {
      await behind.put(packKey(pack), copy.bytes, { signal: op.signal });
      await backend.put(indexKey(pack), copy.tail, { signal: op.signal });
      await unmarkDamaged(backend, pack, op.signal);
      sorted.restoredPacks.push(pack);
    } else {
      await markDamaged(backend, pack, problems[0]?.message ?? `${packKey(pack)} is damaged`, op.signal);
      sorted.markedPacks.push(pack);
    }
    op.progress({ phase: 'repairing' });
  }
  return sorted;
}

/** Bodies of an encrypted pack cannot be checked by themselves, so no such copy is trusted. */
async function wholeCopy(
  { copies, op }: RepairStoreRequest,
  pack: string,
  packBytes: number | undefined,
): Promise<{ bytes: Uint8Array; tail: Uint8Array } | undefined> {
  const bytes = await copies?.get(packKey(pack), { signal: op.signal });
  if (bytes === undefined || bytes.length !== packBytes) {
    return undefined;
  }
  try {
    await checkPack(pack, bytes, op.signal);
    const { dataKey, entries } = decodePackTail(bytes, digestOf, `pack ${pack}`);
    const tailBytes = entries.length * PACK_ENTRY_BYTES + PACK_FOOTER_BYTES;
    const hasHeader = Buffer.compare(bytes.subarray(0, PACK_HEADER.length), PACK_HEADER) === 0;
    return dataKey === undefined && hasHeader ? { bytes, tail: bytes.subarray(bytes.length - tailBytes) } : undefined;
  } catch (error) {
    if (isKybernateError(error, 'CheckpointCorrupt')) {
      return undefined;
    }
    throw error;
  }
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
