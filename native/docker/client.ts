/*
 * Docker's Engine API over its unix socket, by node:http alone. A connection a call: the daemon may be restarted. Paths
 * without a version mean the daemon's newest; daemons give up old versions, and what is used here is in all of them.
 */
import { request } from 'node:http';
import { KybernateError } from '../../core/errors.ts';
import type { Docker, DockerContainer, DockerInfo } from './docker.ts';

const QUICK_MS = 30_000;
/** A start restores, and memory of hundreds of GiB takes its time; the caller has a budget of its own. */
const LONG_MS = 3_600_000;

interface Answer {
  readonly status: number;
  readonly body: unknown;
}

/** @param socketPath of the daemon; looked at when a call is made */
export function connectDocker(socketPath: string): Docker {
  const call = (method: string, path: string, body?: object, timeoutMs = QUICK_MS): Promise<Answer> =>
    exchange(socketPath, { method, path, timeoutMs, ...(body === undefined ? {} : { body }) });
  const get = async <Found>(path: string): Promise<Found | undefined> => {
    const answer = await call('GET', path);
    return answer.status === 404 ? undefined : (checked(answer, `GET ${path}`, [200]) as Found);
  };
  const act = async (method: string, path: string, fine: readonly number[], body?: object): Promise<unknown> =>
    checked(await call(method, path, body, LONG_MS), `${method} ${path}`, fine);
  return {
    info: async () => (await act('GET', '/info', [200])) as DockerInfo,
    container: (name) => get<DockerContainer>(`/containers/${encodeURIComponent(name)}/json`),
    // A reference has slashes, which the path of an image keeps.
    image: async (ref) => (await get<{ Id: string }>(`/images/${encodeURI(ref)}/json`))?.Id,
    hasVolume: async (name) => (await get(`/volumes/${encodeURIComponent(name)}`)) !== undefined,
    hasNetwork: async (name) => (await get(`/networks/${encodeURIComponent(name)}`)) !== undefined,
    async createContainer(name, body) {
      const made = await act('POST', `/containers/create?name=${encodeURIComponent(name)}`, [201], body);
      return (made as { Id: string }).Id;
    },
    async connectNetwork(network, containerId, endpoint) {
      const body = { Container: containerId, EndpointConfig: endpoint };
      await act('POST', `/networks/${encodeURIComponent(network)}/connect`, [200], body);
    },
    async startContainer(id) {
      await act('POST', `/containers/${id}/start`, [204, 304]);
    },
    async killContainer(id) {
      await act('POST', `/containers/${id}/kill?signal=KILL`, [204, 404, 409]);
    },
    async removeContainer(id) {
      await act('DELETE', `/containers/${id}?force=1&v=0`, [204, 404]);
    },
  };
}

function checked({ status, body }: Answer, what: string, fine: readonly number[]): unknown {
  if (fine.includes(status)) {
    return body;
  }
  const said = (body as { message?: unknown } | undefined)?.message;
  const text = typeof said === 'string' ? said : JSON.stringify(body).slice(0, 1000);
  throw new KybernateError('Internal', `Docker refuses ${what} (${status}): ${text}`, { details: { status } });
}

interface Call {
  readonly method: string;
  readonly path: string;
  readonly timeoutMs: number;
  readonly body?: object;
}

function exchange(socketPath: string, { method, path, timeoutMs, body }: Call): Promise<Answer> {
  const text = body === undefined ? '' : JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const unavailable = (why: string, cause: unknown): void =>
      reject(
        new KybernateError('RuntimeUnavailable', `no Docker daemon answers at ${socketPath} (${why})`, {
          cause,
          // Whether its containers run on without it is Docker's own setting.
          details: { socketPath, workload: 'unknown' },
        }),
      );
    const headers = { host: 'docker', 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) };
    const pending = request({ socketPath, path, method, headers, timeout: timeoutMs, agent: false }, (response) => {
      const pieces: Buffer[] = [];
      response.on('data', (piece: Buffer) => pieces.push(piece));
      response.on('error', (error) => unavailable(error.message, error));
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, body: jsonOf(Buffer.concat(pieces).toString('utf8')) }),
      );
    });
    pending.on('timeout', () => pending.destroy(new Error(`nothing for ${timeoutMs} ms`)));
    pending.on('error', (error: NodeJS.ErrnoException) => unavailable(error.code ?? error.message, error));
    pending.end(text);
  });
}

/** Some answers have no body; what is no JSON is kept for the message. */
function jsonOf(text: string): unknown {
  try {
    return text === '' ? undefined : JSON.parse(text);
  } catch {
    return { message: text.slice(0, 1000) };
  }
}
