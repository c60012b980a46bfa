/*
 * As much of an API server as the operator asks for: leases with resource versions, objects of one group with list, watch
 * and merge patches. Every client gets an address of its own, so that one can be cut off alone. The real one is asked in
 * test/kubernetes.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { KubeConfig } from '@kubernetes/client-node';

interface Stored {
  readonly metadata: Readonly<Record<string, unknown>> & { readonly resourceVersion: string };
  readonly [field: string]: unknown;
}

/** How it treats one of its clients: it answers, takes calls and never answers, or is not there. */
export type Treatment = 'answers' | 'hangs' | 'gone';

interface Door {
  treatment: Treatment;
  readonly server: Server;
}

export class FakeApiServer {
  readonly #objects = new Map<string, Stored>();
  readonly #watchers = new Map<ServerResponse, string>();
  readonly #doors: Door[] = [];
  #version = 0;

  /** @returns what the client is to use, and how it is treated from then on */
  async client(): Promise<{ config: KubeConfig; readonly treat: (treatment: Treatment) => void }> {
    const door: Door = {
      treatment: 'answers',
      server: createServer((request, response) => {
        if (door.treatment === 'answers') {
          this.#answer(request, response).catch((error: unknown) => response.destroy(error as Error));
        }
      }),
    };
    this.#doors.push(door);
    door.server.listen(0, '127.0.0.1');
    await once(door.server, 'listening');
    const { port } = door.server.address() as AddressInfo;
    const config = new KubeConfig();
    config.loadFromClusterAndUser(
      { name: 'fake', server: `http://127.0.0.1:${port}`, skipTLSVerify: true },
      { name: 'operator' },
    );
    return {
      config,
      treat(treatment) {
        door.treatment = treatment;
        if (treatment === 'gone') {
          door.server.close();
        }
        if (treatment !== 'answers') {
          door.server.closeAllConnections();
        }
      },
    };
  }

  /** Below `/apis/kybernate.io/v1alpha1/namespaces/<namespace>/`. */
  create(plural: string, namespace: string, name: string, spec: object): void {
    const metadata = { namespace, name, uid: `uid-${name}`, creationTimestamp: new Date().toISOString() };
    const path = `/apis/kybernate.io/v1alpha1/namespaces/${namespace}/${plural}/${name}`;
    this.#put(path, { metadata, spec }, 'ADDED');
  }

  /** Of a lease; empty when it was let go. */
  holderOf(namespace: string, name: string): string | undefined {
    const lease = this.#objects.get(`/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases/${name}`);
    return (lease?.['spec'] as { holderIdentity?: string } | undefined)?.holderIdentity;
  }

  close(): void {
    for (const { server } of this.#doors) {
      server.close();
      server.closeAllConnections();
    }
  }

  #put(path: string, object: object, event: 'ADDED' | 'MODIFIED'): Stored {
    this.#version += 1;
    const { metadata = {} } = object as { metadata?: object };
    const stored = { ...object, metadata: { ...metadata, resourceVersion: String(this.#version) } };
    this.#objects.set(path, stored);
    for (const [watcher, plural] of this.#watchers) {
      if (path.includes(`/${plural}/`)) {
        watcher.write(`${JSON.stringify({ type: event, object: stored })}\n`);
      }
    }
    return stored;
  }

  #of(plural: string): Stored[] {
    return [...this.#objects].flatMap(([path, object]) => (path.includes(`/${plural}/`) ? [object] : []));
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://x');
    const path = pathname.replace(/\/status$/, '');
    const plural = /^\/apis\/kybernate\.io\/v1alpha1\/(\w+)$/.exec(path)?.[1];
    const body = await bodyOf(request);
    if (plural !== undefined && searchParams.get('watch') === 'true') {
      response.writeHead(200, { 'content-type': 'application/json' }).flushHeaders();
      this.#watchers.set(response, plural);
      response.on('close', () => this.#watchers.delete(response));
      const since = Number(searchParams.get('resourceVersion') ?? 0);
      for (const object of this.#of(plural)) {
        if (Number(object.metadata.resourceVersion) > since) {
          response.write(`${JSON.stringify({ type: 'ADDED', object })}\n`);
        }
      }
      return;
    }
    if (plural !== undefined) {
      const metadata = { resourceVersion: String(this.#version) };
      send(response, 200, { kind: 'List', metadata, items: this.#of(plural) });
      return;
    }
    this.#one(request.method ?? 'GET', path, body, response);
  }

  #one(method: string, path: string, body: Record<string, unknown>, response: ServerResponse): void {
    const made = method === 'POST' ? `${path}/${(body['metadata'] as { name: string }).name}` : path;
    const known = this.#objects.get(made);
    const { resourceVersion } = (body['metadata'] ?? {}) as { resourceVersion?: string };
    const isStale = resourceVersion !== undefined && resourceVersion !== known?.metadata.resourceVersion;
    if (method === 'POST' ? known !== undefined : isStale) {
      send(response, 409, { kind: 'Status', code: 409 });
    } else if (method === 'POST' || method === 'PUT') {
      send(response, 200, this.#put(made, body, 'ADDED'));
    } else if (known === undefined) {
      send(response, 404, { kind: 'Status', code: 404 });
    } else {
      send(response, 200, method === 'PATCH' ? this.#put(path, merged(known, body), 'MODIFIED') : known);
    }
  }
}

/** RFC 7386, two levels of it. */
function merged(known: Stored, patch: Record<string, unknown>): object {
  const fields = Object.entries(patch).map(([name, change]) => [
    name,
    { ...(known[name] as object | undefined), ...(change as object) },
  ]);
  return { ...known, ...Object.fromEntries(fields) };
}

function send(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}

async function bodyOf(request: IncomingMessage): Promise<Record<string, unknown>> {
  let text = '';
  for await (const piece of request.setEncoding('utf8') as AsyncIterable<string>) {
    text += piece;
  }
  return text === '' ? {} : (JSON.parse(text) as Record<string, unknown>);
}
