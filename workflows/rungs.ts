/*
 * The rungs of a restore, each a place to try: what it needs, where it looks for the checkpoint, and how the attempt there
 * differs. ladder.ts runs the attempt, undoes it and decides whether the next rung may help.
 */
import { isCancellation, patched } from '@temporalio/workflow';
import { canHelp, type Rung } from '../core/contract/ladder.ts';
import type { OlderInput, OlderResult, ResolveResult, RestoreResult } from '../core/contract/restore.ts';
import { messageOf } from '../core/errors.ts';
import { asFailure } from './failures.ts';
import type { Attempted, Ladder, TryAt, Where } from './ladder.ts';
import { checkProtocol, checkSidecar } from './probe.ts';

/** As many older checkpoints as are tried. */
const MAX_OLDER = 5;
/** Operations that run since before this skip the rung when one of the two places cannot be asked. */
const EACH_PLACE = 'older-of-each-place';

/** @throws the error of the last attempt */
export function climbLadder(ladder: Ladder, tryAt: TryAt): Promise<RestoreResult> {
  return ladder.climb((rung) => climbRung(ladder, rung, tryAt));
}

/** @returns undefined when the next rung may try */
async function climbRung(ladder: Ladder, rung: Rung, tryAt: TryAt): Promise<Attempted | undefined> {
  const { input } = ladder.run;
  const at: Where = {
    rung,
    node: input.node,
    ...(input.checkpointId === undefined ? {} : { checkpointId: input.checkpointId }),
  };
  if (!canHelp(rung, ladder.type)) {
    ladder.skip(at, `it does not help against ${ladder.type ?? 'that'}`);
    return undefined;
  }
  return TRIES[rung](ladder, at, tryAt);
}

/** The directory on the node, or the path that was asked for. */
async function tryLocal(ladder: Ladder, at: Where, tryAt: TryAt): Promise<Attempted | undefined> {
  const { path, source, unverified } = ladder.run.input;
  if (source === 'store' && path === undefined) {
    ladder.skip(at, 'source: store');
    return undefined;
  }
  const what = path === undefined ? {} : { path };
  const which = at.checkpointId === undefined ? {} : { checkpointId: at.checkpointId };
  return ladder.attempt({ ...at, ...(path === undefined ? { from: 'local' } : {}) }, tryAt, async () => {
    const { probe } = ladder.run.stepsOn(at.node);
    const where = { node: at.node, unverified, source, ...what };
    return (await probe.resolveLocal({ ...where, ...which })).found;
  });
}

async function tryStored(ladder: Ladder, at: Where, tryAt: TryAt): Promise<Attempted | undefined> {
  const { checkpointId } = at;
  const { source } = ladder.run.input;
  if (checkpointId === undefined || source === 'local') {
    ladder.skip(at, checkpointId === undefined ? 'a path is not in the store' : 'source: local');
    return undefined;
  }
  return ladder.attempt(
    { ...at, from: 'store' },
    tryAt,
    async () => (await ladder.run.control.findCheckpoint({ checkpointId })).found,
  );
}

/** A node that has a whole copy brings it to the store, or makes that of the store whole; then it is fetched there. */
async function tryPeers(ladder: Ladder, at: Where, tryAt: TryAt): Promise<Attempted | undefined> {
  const { checkpointId } = at;
  const { input, stepsOn, control } = ladder.run;
  const source = ladder.image?.sourceNode;
  const names = new Set([...input.peers, ...(source === undefined ? [] : [source])]);
  names.delete(input.node);
  if (checkpointId === undefined || input.source === 'local' || names.size === 0) {
    ladder.skip(at, names.size === 0 ? 'no peer is named' : 'only the node itself was asked for');
    return undefined;
  }
  for (const peer of names) {
    const done = await ladder.attempt(
      { ...at, node: peer },
      (place) => tryAt({ ...place, node: input.node }),
      async () => {
        const steps = stepsOn(peer);
        const copy = await steps.probe.resolveLocal({ node: peer, checkpointId, unverified: false, source: 'auto' });
        if (copy.found === undefined) {
          return undefined;
        }
        const answer = await steps.probe.probeNode({ store: true });
        checkProtocol(answer, peer);
        checkSidecar(answer, peer);
        if ((await control.findCheckpoint({ checkpointId })).found === undefined) {
          await steps.transfer.uploadImage({ checkpointId });
          await steps.transfer.publishManifest({ checkpointId });
        } else {
          await steps.transfer.repairStored({ checkpointId });
        }
        await steps.note.confirmUpload({ checkpointId });
        return { ...copy.found, from: 'store' as const };
      },
    );
    if (done !== undefined) {
      return done;
    }
  }
  return undefined;
}

async function tryOtherGpus(ladder: Ladder, at: Where, tryAt: TryAt): Promise<Attempted | undefined> {
  const last = ladder.last;
  if (last === undefined || last.gpus.length === 0 || ladder.run.input.gpuMap.length > 0) {
    ladder.skip(at, last?.gpus.length === 0 || last === undefined ? 'no GPU was in use' : 'gpuMap names the GPUs');
    return undefined;
  }
  return ladder.attempt(
    at,
    (place) => tryAt({ ...place, avoidGpus: last.gpus }),
    () => Promise.resolve(last.image),
  );
}

async function tryOtherNodes(ladder: Ladder, at: Where, tryAt: TryAt): Promise<Attempted | undefined> {
  const { input } = ladder.run;
  const names = input.otherNodes.filter((name) => name !== input.node);
  if (input.checkpointId === undefined || names.length === 0) {
    ladder.skip(at, names.length === 0 ? 'no other node is named' : 'a path is on one node alone');
    return undefined;
  }
  for (const name of names) {
    const done = await tryAnyCopy(ladder, { ...at, node: name }, tryAt);
    if (done !== undefined) {
      return done;
    }
  }
  return undefined;
}

async function tryOlder(ladder: Ladder, at: Where, tryAt: TryAt): Promise<Attempted | undefined> {
  const { sourceContainer: container, sourceNode, createdAt: before } = ladder.image ?? {};
  if (container === undefined || sourceNode === undefined || before === undefined) {
    ladder.skip(at, 'whose checkpoint it is cannot be read anywhere');
    return undefined;
  }
  const newestFirst = await olderCandidates(ladder, at, { container, sourceNode, before });
  if (newestFirst === undefined) {
    return undefined;
  }
  if (newestFirst.length === 0) {
    ladder.skip(at, `no older checkpoint of ${container.namespace}/${container.id} on ${sourceNode}`);
  }
  for (const checkpointId of newestFirst) {
    const done = await tryAnyCopy(ladder, { ...at, checkpointId }, tryAt);
    if (done !== undefined) {
      return done;
    }
  }
  return undefined;
}

/**
 * Of the node's disk and of the store. A place that cannot be asked is told, and keeps nobody from what the other has.
 * @returns undefined when there is nothing to try, which is told
 */
async function olderCandidates(ladder: Ladder, at: Where, wish: OlderInput): Promise<readonly string[] | undefined> {
  const { input, stepsOn, control } = ladder.run;
  const local = await olderIn(ladder, { at, place: `on ${at.node}` }, () => stepsOn(at.node).probe.olderLocal(wish));
  if (local === undefined && !patched(EACH_PLACE)) {
    return undefined;
  }
  const askStore = (): Promise<OlderResult> =>
    input.source === 'local' ? Promise.resolve({ checkpoints: [] }) : control.olderStored(wish);
  const stored = await olderIn(ladder, { at, place: 'in the store' }, askStore);
  if (stored === undefined && (local === undefined || !patched(EACH_PLACE))) {
    return undefined;
  }
  const all = new Map([...(local ?? []), ...(stored ?? [])].map((one) => [one.checkpointId, one.createdAt]));
  const newestFirst = [...all].sort(([, a], [, b]) => (a < b ? 1 : -1)).slice(0, MAX_OLDER);
  return newestFirst.map(([checkpointId]) => checkpointId);
}

/** @returns undefined when they cannot be listed, which is told */
async function olderIn(
  ladder: Ladder,
  { at, place }: { readonly at: Where; readonly place: string },
  list: () => Promise<OlderResult>,
): Promise<OlderResult['checkpoints'] | undefined> {
  try {
    return (await list()).checkpoints;
  } catch (error) {
    if (isCancellation(error)) {
      throw error;
    }
    ladder.skip(at, `older checkpoints ${place} cannot be listed: ${messageOf(asFailure(error, at.node))}`);
    return undefined;
  }
}

/** The copy on the node, else, or where that is damaged, the one in the store. */
async function tryAnyCopy(ladder: Ladder, at: Where, tryAt: TryAt): Promise<Attempted | undefined> {
  const local = await tryLocal(ladder, at, tryAt);
  const retry = canHelp('other-tier', ladder.lastType ?? 'CheckpointNotFound');
  return local !== undefined || !retry ? local : tryStored(ladder, at, tryAt);
}

async function tryCold(ladder: Ladder, at: Where, tryAt: TryAt): Promise<Attempted | undefined> {
  const image = ladder.image;
  const { input, control } = ladder.run;
  const { checkpointId } = input;
  if (checkpointId === undefined) {
    ladder.skip(at, 'a path has no specification');
    return undefined;
  }
  const cold: TryAt = (place) => tryAt({ ...place, cold: true });
  const stored = async (): Promise<ResolveResult | undefined> =>
    input.source === 'local' ? undefined : (await control.findCheckpoint({ checkpointId })).found;
  // The specification of the node's copy may be whole where its memory is not, so it comes first.
  const local = image?.from === 'store' ? undefined : await ladder.attempt(at, cold, () => describedOn(ladder, at));
  const retry = canHelp('other-tier', ladder.lastType ?? 'CheckpointNotFound');
  return local !== undefined || !retry ? local : ladder.attempt({ ...at, from: 'store' }, cold, stored);
}

async function describedOn(ladder: Ladder, at: Where): Promise<ResolveResult | undefined> {
  const { checkpointId } = at;
  const { input, stepsOn } = ladder.run;
  if (checkpointId === undefined || input.source === 'store') {
    return undefined;
  }
  const where = { node: at.node, checkpointId, unverified: false, source: input.source };
  return (await stepsOn(at.node).probe.resolveLocal(where)).found;
}

const TRIES: Readonly<Record<Rung, typeof tryLocal>> = {
  'local-copy': tryLocal,
  'other-tier': tryStored,
  peer: tryPeers,
  'another-gpu': tryOtherGpus,
  'another-node': tryOtherNodes,
  'older-checkpoint': tryOlder,
  'cold-start': tryCold,
};
