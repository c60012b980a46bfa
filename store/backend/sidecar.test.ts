import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, request, type RequestListener, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { KybernateError } from '../../core/errors.ts';
import type { Backend } from './backend.ts';
import { openLocalBackend } from './local.ts';
import { serveObjects, type ObjectsPolicy } from './objects-server.ts';
import { openSidecarBackend } from './sidecar.ts';
import { describeBackend } from './suite.ts';

const ANYTHING: ObjectsPolicy = { mayWrite: () => true, maxPutBytes: 200 * 2 ** 20 };

let root = '';
let servers: Server[] = [];
async function makeRoot(): Promise<void> {
  root = await mkdtemp(join(tmpdir(), 'kybernate-socket-'));
}
async function removeRoot(): Promise<void> {
  servers.forEach((server) => server.close());
  servers.forEach((server) => server.closeAllConnections());
  servers = [];
  await rm(root, { recursive: true, force: true });
}

async function listen(name: string, listener: RequestListener): Promise<string> {
  const socketPath = join(root, name);
  const server = createServer((request, response) => {
    if (request.url === '/v1/health') {
      response.end(JSON.stringify({ store: 'file:///behind' }));
    } else {
      listener(request, response);
    }
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  return socketPath;
}

async function keysOf(backend: Backend): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of backend.list('a')) {
    keys.push(key);
  }
  return keys;
}

async function over(backend: Backend, name = 'a.sock', policy = ANYTHING): Promise<Backend> {
  const socketPath = await listen(name, (request, response) => {
    void serveObjects(() => Promise.resolve(backend), policy, request, response);
  });
  return openSidecarBackend(socketPath, 'node-a');
}

describeBackend(
  'socket of the sidecar',
  async () => {
    await makeRoot();
    const local = await openLocalBackend(join(root, 'store'));
    const unmounted = await openLocalBackend(join(root, 'unmounted'));
    await rm(join(root, 'unmounted'), { recursive: true });
    return {
      backend: await over(local),
      leaveHalfMade: () => writeFile(join(root, 'store/.tmp/half'), 'half'),
      missingPlace: await over(unmounted, 'b.sock'),
      missingPlaceError: 'StorageUnavailable',
    };
  },
  removeRoot,
);

describe('the store through a socket', () => {
  beforeEach(makeRoot);
  afterEach(removeRoot);
  afterAll(removeRoot);

  it('is called by the URL of the store behind it', async () => {
    expect((await over(await openLocalBackend(join(root, 'store')))).url).toBe('file:///behind');
  });

  it.each(['StorageDenied', 'StorageUnavailable', 'DiskFull', 'InvalidInput'] as const)(
    'passes %s on with message and details, for every call',
    async (type) => {
      const local = await openLocalBackend(join(root, 'store'));
      const fail = () => Promise.reject(new KybernateError(type, 'no: “ß”\n', { details: { pack: 'x' } }));
      const backend = await over({ ...local, url: '', put: fail, get: fail, head: fail, delete: fail });
      const failure = { type, message: 'no: “ß”\n', details: { pack: 'x' } };

      await expect(backend.get('a')).rejects.toMatchObject(failure);
      await expect(backend.head('a')).rejects.toMatchObject(failure);
      await expect(backend.put('a', new Uint8Array(1))).rejects.toMatchObject(failure);
      await expect(backend.delete('a')).rejects.toMatchObject(failure);
    },
  );

  it('keeps the type of an error whose details are too long for a header', async () => {
    const local = await openLocalBackend(join(root, 'store'));
    const details = { reasons: 'ä'.repeat(100_000) };
    const get = () => Promise.reject(new KybernateError('StorageDenied', 'long', { details }));

    await expect((await over({ ...local, url: '', get })).get('a')).rejects.toMatchObject({ type: 'StorageDenied' });
  });

  it.each([
    ['nobody has listened there', undefined],
    ['the one that listened is dead', 'dead'],
  ])('says that no sidecar serves the node when %s', async (_, left) => {
    const socketPath = join(root, 'c.sock');
    if (left !== undefined) {
      await writeFile(socketPath, '');
    }

    await expect(openSidecarBackend(socketPath, 'node-a')).rejects.toMatchObject({
      type: 'StorageUnavailable',
      message: expect.stringContaining('no sidecar serves node node-a: start `kybernate sidecar`') as string,
    });
  });

  it('never takes the 404 of another server for "absent"', async () => {
    const socketPath = await listen('d.sock', (_, response) => response.writeHead(404).end());
    const backend = await openSidecarBackend(socketPath, 'node-a');

    await expect(backend.get('a')).rejects.toMatchObject({ type: 'StorageUnavailable' });
    await expect(backend.head('a')).rejects.toMatchObject({ type: 'StorageUnavailable' });
  });

  it('never takes a part of an object or of a list for the whole', async () => {
    const socketPath = await listen('e.sock', (request, response) => {
      if (request.url?.startsWith('/objects?') === true) {
        response.write('{"key":"a","bytes":1,"modifiedMs":1}\n', () => response.destroy());
      } else {
        response.writeHead(200, { 'content-length': 100 });
        response.write('half', () => response.destroy());
      }
    });
    const backend = await openSidecarBackend(socketPath, 'node-a');

    await expect(backend.get('a')).rejects.toMatchObject({ type: 'StorageUnavailable' });
    await expect(keysOf(backend)).rejects.toMatchObject({ type: 'StorageUnavailable' });
  });

  it('goes on with the sidecar that replaced the one it was connected to', async () => {
    const local = await openLocalBackend(join(root, 'store'));
    const backend = await over(local, 'f.sock');
    await backend.put('a', new Uint8Array(7));
    servers[0]?.closeAllConnections();
    servers[0]?.close();
    await expect.poll(() => servers[0]?.listening).toBe(false);
    await rm(join(root, 'f.sock'), { force: true });

    await expect(backend.get('a')).rejects.toMatchObject({ type: 'StorageUnavailable' });
    await over(local, 'f.sock');

    expect(await backend.get('a')).toEqual(new Uint8Array(7));
  });

  it('tells the cache behind it to drop what was damaged, or to be passed by', async () => {
    const local = await openLocalBackend(join(root, 'store'));
    const asked: unknown[] = [];
    const get: Backend['get'] = (_, options) => {
      asked.push({ fresh: options?.fresh, pastCopies: options?.pastCopies });
      return Promise.resolve(new Uint8Array(1));
    };
    const backend = await over({ ...local, url: '', get });

    await backend.get('a');
    await backend.get('a', { fresh: true });
    await backend.get('a', { pastCopies: true });

    expect(asked).toEqual([{}, { fresh: true }, { pastCopies: true }]);
  });

  it('writes and deletes only what the policy allows, and changes nothing else', async () => {
    const local = await openLocalBackend(join(root, 'store'));
    await local.put('packs/a', new Uint8Array(3));
    const mayWrite = (key: string) => key.startsWith('leases/');
    const backend = await over(local, 'g.sock', { mayWrite, maxPutBytes: 100 });

    await backend.put('leases/a.json', new Uint8Array(100));
    await expect(backend.put('packs/a', new Uint8Array(1))).rejects.toMatchObject({ type: 'StorageDenied' });
    await expect(backend.putIfAbsent('packs/b', new Uint8Array(1))).rejects.toMatchObject({ type: 'StorageDenied' });
    await expect(backend.delete('packs/a')).rejects.toMatchObject({ type: 'StorageDenied' });
    await expect(backend.sweep(0)).rejects.toMatchObject({ type: 'StorageDenied' });
    await expect(backend.put('leases/b.json', new Uint8Array(101))).rejects.toMatchObject({ type: 'InvalidInput' });

    expect((await local.head('packs/a'))?.bytes).toBe(3);
    expect(await local.head('leases/b.json')).toBeUndefined();
  });

  it.each(['/objects/../secret', '/objects/packs/..%2f..%2fsecret', '/objects/%2e%2e/secret', '/objects//etc/passwd'])(
    'refuses the path %s',
    async (path) => {
      const backend = await openLocalBackend(join(root, 'store'));
      await writeFile(join(root, 'secret'), 'secret');
      await over(backend, 'h.sock');

      const status = await new Promise((resolve, reject) => {
        const call = request({ socketPath: join(root, 'h.sock'), path }, (answer) => {
          answer.resume();
          resolve(answer.statusCode);
        });
        call.once('error', reject).end();
      });

      expect(status).toBe(400);
    },
  );
});
