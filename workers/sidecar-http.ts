/*
 * What the sidecar answers on its HTTP socket.
 *   GET  /v1/health                        { status, node, store }
 *   POST /v1/upload | download | prefetch  202 the new transfer; bodies: core/contract/transfer.ts
 *   GET  /v1/transfers                     all that can be asked for
 *   GET  /v1/transfers/<id>                its status
 *   GET  /v1/transfers/<id>/progress       ndjson: its status at every change, the end last
 *   POST /v1/transfers/<id>/cancel         its status when it has ended
 *   /v1/tiers, /v1/pins                    tiers-http.ts
 *   /objects, /sweep                       store/backend/objects-server.ts
 * Errors are `{ "error": { type, message, details } }` with the names of docs/errors.md.
 */
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import { TRANSFER_CALLS, type TransferKind } from '../core/contract/transfer.ts';
import { KybernateError } from '../core/errors.ts';
import type { Logger } from '../core/op.ts';
import { withinSpan } from '../core/spans.ts';
import type { Backend } from '../store/backend/backend.ts';
import { serveObjects, type ObjectsPolicy } from '../store/backend/objects-server.ts';
import { PREFIX } from '../store/keys.ts';
import type { TieredBackend } from '../store/tiers/tiered.ts';
import { verifiedOfKey } from '../store/verified.ts';
import { readJsonBody, sendJson, sendLines } from './json-http.ts';
import { serveTiers } from './tiers-http.ts';
import type { Transfers } from './transfers.ts';
import { sendError } from './wire-errors.ts';

export interface SidecarHttpParts {
  readonly node: string;
  /** of the store, without credentials */
  readonly url: string;
  readonly backend: () => Promise<Backend>;
  readonly tiered: () => Promise<TieredBackend>;
  /** resolved when the sidecar is ready */
  readonly transfers: Promise<Transfers>;
  readonly log: Logger;
}

/**
 * Root reads checkpoints, leases them meanwhile, and notes what it has read back; it sends nothing else. Packs, indexes and manifests go by the
 * sidecar's own uploads, deletions by the control worker: a mistake of a program on this node cannot undo them.
 */
const POLICY: ObjectsPolicy = {
  mayWrite: (key) => key.startsWith(PREFIX.leases) || verifiedOfKey(key) !== undefined,
  maxPutBytes: 65_536,
};

export function sidecarRequests(parts: SidecarHttpParts): RequestListener {
  return (request, response) => {
    void withinSpan(request.headers['traceparent']?.toString(), async () => {
      try {
        const answered =
          (await serveObjects(parts.backend, POLICY, request, response)) ||
          (await serveTiers(parts, request, response));
        if (!answered) {
          await answer(parts, request, response);
        }
      } catch (error) {
        sendError(parts.log, request, response, error);
      }
    });
  };
}

async function answer(parts: SidecarHttpParts, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { node, url, transfers } = parts;
  const call = `${request.method ?? ''} ${request.url ?? ''}`;
  if (call === 'GET /v1/health') {
    return sendJson(response, 200, { status: 'ok', node, store: url });
  }
  if (call === 'GET /v1/transfers') {
    return sendJson(response, 200, { transfers: (await transfers).list() });
  }
  const [, kind] = /^POST \/v1\/(\w+)$/.exec(call) ?? [];
  if (kind !== undefined && Object.hasOwn(TRANSFER_CALLS, kind)) {
    const body = await readJsonBody(request);
    return sendJson(response, 202, await (await transfers).start(kind as TransferKind, body));
  }
  const [, method, id = '', what] = /^(\w+) \/v1\/transfers\/([^/?]+)(\/\w+)?$/.exec(call) ?? [];
  switch (`${method ?? ''}${what ?? ''}`) {
    case 'GET':
      return sendJson(response, 200, (await transfers).status(id));
    case 'GET/progress': {
      const all = await transfers;
      return sendLines(response, (gone) => all.follow(id, gone));
    }
    case 'POST/cancel':
      return sendJson(response, 200, await (await transfers).cancel(id));
    default:
      throw new KybernateError('InvalidInput', `the sidecar has no ${call}`);
  }
}
