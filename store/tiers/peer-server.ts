/*
 * What a node gives to its peers: the objects that lie in its tiers, to be read only, for who has the token. Never the
 * store behind them: a peer has its own way there.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { RequestListener } from 'node:http';
import { KybernateError } from '../../core/errors.ts';
import type { Backend } from '../backend/backend.ts';
import { serveObjects, type ObjectsPolicy } from '../backend/objects-server.ts';
import { readGuardedFile, SECRET_MODE } from '../crypto/secret-file.ts';

const POLICY: ObjectsPolicy = { mayWrite: () => false, maxPutBytes: 0 };
const MIN_TOKEN_CHARS = 16;

/** @param resident what is served, `residentBackend` of the tiers */
export function peerRequests(resident: () => Promise<Backend>, token: string): RequestListener {
  const expected = digest(`Bearer ${token}`);
  return (request, response) => {
    // Digests are equally long, and comparing them takes as long for every wrong token.
    const given = timingSafeEqual(digest(request.headers.authorization ?? ''), expected);
    const isRead = request.method === 'GET' || request.method === 'HEAD';
    if (!given || !isRead) {
      response.writeHead(given ? 405 : 401, { 'content-length': 0, connection: 'close' });
      response.end();
      return;
    }
    void (async () => {
      if (!(await serveObjects(resident, POLICY, request, response))) {
        response.writeHead(404, { 'content-length': 0 });
        response.end();
      }
    })();
  };
}

/** @throws InvalidInput it cannot be read, others can read it too, or it is no token */
export async function readPeerToken(path: string): Promise<string> {
  const what = 'the token of the peers (KYBERNATE_PEER_TOKEN_FILE)';
  const bytes = await readGuardedFile(path, { what, forbiddenMode: SECRET_MODE });
  const token = Buffer.from(bytes).toString('latin1').trim();
  if (token.length < MIN_TOKEN_CHARS || !/^[!-~]+$/.test(token)) {
    const rule = `one line of at least ${MIN_TOKEN_CHARS} printable characters, for example of \`openssl rand -hex 32\``;
    throw new KybernateError('InvalidInput', `${what} ${path} is none: write ${rule}`);
  }
  return token;
}

function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
