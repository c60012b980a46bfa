/*
 * What the sidecar answers on its HTTP socket.
 *   GET /v1/health      { status, node, store }
 *   /objects, /sweep    store/backend/objects-server.ts
 * Errors are `{ "error": { type, message, details } }` with the names of docs/errors.md.
 */
import type { RequestListener } from 'node:http';
import type { Logger } from '../core/op.ts';
import type { Backend } from '../store/backend/backend.ts';
import { serveObjects, type ObjectsPolicy } from '../store/backend/objects-server.ts';
import { PREFIX } from '../store/keys.ts';

export interface SidecarHttpParts {
  readonly node: string;
  /** of the store, without credentials */
  readonly url: string;
  readonly backend: () => Promise<Backend>;
  readonly log: Logger;
}

/**
 * Root reads checkpoints and leases them meanwhile; it sends nothing else. Packs, indexes and manifests go by the
 * sidecar's own uploads, deletions by the control worker: a mistake of a program on this node cannot undo them.
 */
const POLICY: ObjectsPolicy = {
  mayWrite: (key) => key.startsWith(PREFIX.leases),
  maxPutBytes: 65_536,
};

export function sidecarRequests({ node, url, backend }: SidecarHttpParts): RequestListener {
  return (request, response) => {
    void (async () => {
      if (await serveObjects(backend, POLICY, request, response)) {
        return;
      }
      const known = `${request.method ?? ''} ${request.url ?? ''}` === 'GET /v1/health';
      const body = known
        ? { status: 'ok', node, store: url }
        : {
            error: { type: 'InvalidInput', message: `the sidecar has no ${request.method ?? ''} ${request.url ?? ''}` },
          };
      response.writeHead(known ? 200 : 404, { 'content-type': 'application/json' });
      response.end(`${JSON.stringify(body)}\n`);
    })();
  };
}
