/*
 * What the sidecar tells of its tiers, and what may be done there:
 *   GET     /v1/tiers                                       { tiers }: budgets, what is used, pins
 *   GET     /v1/tiers?checkpoint=<id>                       { tiers, residency }
 *   GET     /v1/tiers?checkpoint=<id>&file=&offset=&bytes=  { tiers, residency, segment }
 *   DELETE  /v1/pins/<checkpoint id>                        { unpinned }: the tiers that had a pin
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { TiersReport } from '../core/contract/tiers.ts';
import { isKybernateError, KybernateError, messageOf } from '../core/errors.ts';
import { parseCheckpointId } from '../core/ids.ts';
import type { Logger } from '../core/op.ts';
import type { Backend } from '../store/backend/backend.ts';
import { getManifest } from '../store/catalog.ts';
import { planRead } from '../store/read-plan.ts';
import { findResidency, segmentResidency } from '../store/tiers/residency.ts';
import type { TieredBackend } from '../store/tiers/tiered.ts';
import { sendJson } from './json-http.ts';

export interface TiersHttpParts {
  readonly tiered: () => Promise<TieredBackend>;
  /** the same store with its keys, where it is encrypted */
  readonly backend: () => Promise<Backend>;
  readonly log: Logger;
}

/** Answers a request about tiers; `false` and nothing done when its path is none of ours. Never throws. */
export async function serveTiers(
  parts: TiersHttpParts,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<boolean> {
  const [path = '', query = ''] = (request.url ?? '').split('?', 2);
  const pin = /^\/v1\/pins\/([^/]+)$/.exec(path)?.[1];
  const gone = new AbortController();
  response.once('close', () => gone.abort(new DOMException('the client went away', 'AbortError')));
  try {
    if (request.method === 'GET' && path === '/v1/tiers') {
      sendJson(response, 200, await report(parts, new URLSearchParams(query), gone.signal));
    } else if (request.method === 'DELETE' && pin !== undefined) {
      sendJson(response, 200, { unpinned: await unpin(await parts.tiered(), pin) });
    } else {
      return false;
    }
  } catch (error) {
    const { type, message, details } = isKybernateError(error)
      ? error
      : new KybernateError('Internal', messageOf(error));
    sendJson(response, type === 'Internal' ? 500 : 400, { error: { type, message, details } });
  }
  return true;
}

async function report(parts: TiersHttpParts, query: URLSearchParams, signal: AbortSignal): Promise<TiersReport> {
  const { tiers } = await parts.tiered();
  const states = tiers.map((tier) => tier.state());
  const id = query.get('checkpoint');
  if (id === null) {
    return { tiers: states };
  }
  const backend = await parts.backend();
  const residency = await findResidency(backend, tiers, parseCheckpointId(id), signal);
  const file = query.get('file');
  if (file === null) {
    return { tiers: states, residency };
  }
  const { manifest } = await getManifest(backend, id, signal);
  const plan = await planRead(backend, manifest, { signal, log: parts.log, progress: () => undefined });
  const offset = numberOf(query, 'offset') ?? 0;
  const bytes = numberOf(query, 'bytes') ?? Number.MAX_SAFE_INTEGER - offset;
  return { tiers: states, residency, segment: segmentResidency(tiers, plan, { file, offset, bytes }) };
}

/** @returns names of the tiers that had a pin of the checkpoint */
async function unpin({ tiers }: TieredBackend, id: string): Promise<string[]> {
  const checkpointId = parseCheckpointId(id);
  const unpinned: string[] = [];
  for (const tier of tiers) {
    if (await tier.pins.remove(checkpointId)) {
      unpinned.push(tier.name);
    }
  }
  return unpinned;
}

function numberOf(query: URLSearchParams, name: string): number | undefined {
  const text = query.get(name);
  if (text === null) {
    return undefined;
  }
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new KybernateError('InvalidInput', `${name}: ${JSON.stringify(text)} is no number of bytes`);
  }
  return value;
}
