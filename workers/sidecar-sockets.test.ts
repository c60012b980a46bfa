import { chmod, mkdir, mkdtemp, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { createServer, request, type Server as HttpServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { credentials, makeGenericClientConstructor, status, type Server, type ServiceDefinition } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openLocalBackend } from '../store/backend/local.ts';
import { openSidecarBackend } from '../store/backend/sidecar.ts';
import { TieredBackend } from '../store/tiers/tiered.ts';
import { testOp } from '../test/harness/checkpoint-dir.ts';
import { sidecarRequests } from './sidecar-http.ts';
import {
  bindPrivately,
  clearSocket,
  prepareSocketDir,
  sidecarSockets,
  type SidecarSockets,
} from './sidecar-sockets.ts';
import { bindServer, transferServer } from './transfer-grpc.ts';
import { Transfers } from './transfers.ts';
import { listen } from './unix-socket.ts';

const { log } = testOp();

let root: string;
let sockets: SidecarSockets;
let http: HttpServer;
let grpc: Server;
let client: InstanceType<ReturnType<typeof makeGenericClientConstructor>>;
let open: PromiseWithResolvers<void>;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-sidecar-'));
  sockets = sidecarSockets(join(root, 'run'));
  prepareSocketDir(sockets);
  open = Promise.withResolvers();
  const store = await openLocalBackend(join(root, 'store'));
  const tiered = new TieredBackend({ store, tiers: [], peers: [], log });
  const backend = () => Promise.resolve(tiered);
  const transfers = Transfers.open(join(root, 'transfers'), {
    work: async (_id, _task, op) => {
      op.progress({ phase: 'uploading', bytesDone: 5_000_000_000, bytesTotal: 6_000_000_000 });
      const stopped = new Promise<never>((_, reject) => {
        op.signal.addEventListener('abort', () => reject(op.signal.reason as Error));
      });
      await Promise.race([open.promise, stopped]);
      return { hash: 'ab', location: 'file:///s' };
    },
    log,
  });
  http = createServer(sidecarRequests({ node: 'node-a', url: store.url, backend, tiered: backend, transfers, log }));
  grpc = transferServer(transfers);
  await bindPrivately(sockets.http, undefined, () => listen(http, sockets.http));
  await bindPrivately(sockets.grpc, undefined, () => bindServer(grpc, sockets.grpc));
  const service = loadSync('transfer.proto', { includeDirs: [join(import.meta.dirname, '../proto')], longs: Number })[
    'kybernate.transfer.v1.Transfer'
  ] as ServiceDefinition;
  const Transfer = makeGenericClientConstructor(service, 'Transfer');
  client = new Transfer(`unix:${sockets.grpc}`, credentials.createInsecure());
});
afterEach(async () => {
  client.close();
  grpc.forceShutdown();
  http.closeAllConnections();
  await new Promise((resolve) => http.close(resolve));
  await rm(root, { recursive: true, force: true });
});

type Answer = Readonly<Record<string, unknown>>;

function call(name: string, message: object): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const method = client[name] as (message: object, done: (error: unknown, answer: Answer) => void) => void;
    method.call(client, message, (error, answer) => (error === null ? resolve(answer) : reject(error as Error)));
  });
}

function ask(method: string, path: string, body?: unknown): Promise<{ status: number; lines: Answer[] }> {
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath: sockets.http, method, path }, (answer) => {
      let text = '';
      answer.on('data', (part: Buffer) => (text += part.toString()));
      answer.on('end', () => {
        const lines = text.split('\n').filter((line) => line !== '');
        resolve({ status: answer.statusCode ?? 0, lines: lines.map((line) => JSON.parse(line) as Answer) });
      });
    });
    asked.once('error', reject).end(body === undefined ? undefined : JSON.stringify(body));
  });
}

describe('the sockets', () => {
  it('can be opened by their owner alone, from their first moment', async () => {
    for (const path of [sockets.grpc, sockets.http]) {
      expect((await stat(path)).mode & 0o777, path).toBe(0o600);
    }
    expect((await stat(sockets.dir)).mode & 0o022).toBe(0);
  });

  it('take the place of those of a sidecar that died, never of one that answers', async () => {
    const dead = join(sockets.dir, 'dead.sock');
    await writeFile(dead, '');

    await clearSocket(dead);

    await expect(stat(dead)).rejects.toMatchObject({ code: 'ENOENT' });
    await expect(clearSocket(sockets.http)).rejects.toMatchObject({ type: 'Internal' });
  });

  it.each([
    ['others may write there', 0o777],
    ['its group may write there', 0o770],
  ])('are made in no directory when %s', async (_, mode) => {
    const elsewhere = sidecarSockets(join(root, 'elsewhere'));
    await mkdir(elsewhere.dir, { recursive: true });
    await chmod(elsewhere.dir, mode);

    expect(() => prepareSocketDir(elsewhere)).toThrow(expect.objectContaining({ type: 'InvalidInput' }) as Error);
  });

  it('are made in no directory that a symbolic link names', async () => {
    const elsewhere = sidecarSockets(join(root, 'elsewhere'));
    await mkdir(join(root, 'elsewhere'));
    await symlink(sockets.dir, elsewhere.dir);

    expect(() => prepareSocketDir(elsewhere)).toThrow(expect.objectContaining({ type: 'InvalidInput' }) as Error);
  });
});

describe('proto/transfer.proto', () => {
  it('starts, follows and ends a transfer', async () => {
    const { transferId } = await call('Upload', { checkpointId: 'ck-1', paths: ['/a/b'] });
    const stream = (client['Progress'] as (message: object) => AsyncIterable<Answer>).call(client, { transferId });
    const seen: Answer[] = [];

    for await (const state of stream) {
      seen.push(state);
      open.resolve();
    }

    expect(seen[0]).toMatchObject({ status: 'running', bytes: 5_000_000_000, totalBytes: 6_000_000_000 });
    expect(seen.at(-1)).toMatchObject({ status: 'done', hash: 'ab', location: 'file:///s' });
    expect(await call('Status', { transferId })).toMatchObject({
      kind: 'upload',
      checkpointId: 'ck-1',
      status: 'done',
    });
  });

  it('cancels one, and answers then', async () => {
    const { transferId } = await call('Download', { checkpointId: 'ck-1', destDir: '/d' });

    expect(await call('Cancel', { transferId })).toMatchObject({ status: 'cancelled' });
  });

  it('refuses what is wrong, with the code of gRPC and our type', async () => {
    const failure = { code: status.INVALID_ARGUMENT, details: expect.stringContaining('checkpointId') as string };

    await expect(call('Upload', { checkpointId: '../x' })).rejects.toMatchObject(failure);
    await expect(call('Status', { transferId: 'none' })).rejects.toMatchObject({ code: status.INVALID_ARGUMENT });
    const stream = (client['Progress'] as (message: object) => AsyncIterable<Answer>).call(client, { transferId: 'x' });
    await expect(stream[Symbol.asyncIterator]().next()).rejects.toMatchObject({ code: status.INVALID_ARGUMENT });
    await expect(call('Prefetch', { checkpointId: 'ck-1', targetTier: 'tape' })).rejects.toMatchObject({
      code: status.INVALID_ARGUMENT,
    });
  });
});

describe('the same calls over HTTP', () => {
  it('start, follow and end a transfer that the other protocol sees, too', async () => {
    const started = await ask('POST', '/v1/prefetch', { checkpointId: 'ck-1' });
    const transferId = String(started.lines[0]?.['transferId']);
    const following = ask('GET', `/v1/transfers/${transferId}/progress`);
    expect(await call('Status', { transferId })).toMatchObject({ status: 'running' });
    open.resolve();

    expect(started.status).toBe(202);
    expect((await following).lines.at(-1)).toMatchObject({ status: 'done', hash: 'ab' });
    expect((await ask('GET', '/v1/transfers')).lines[0]?.['transfers']).toHaveLength(1);
  });

  it('cancel one', async () => {
    const { lines } = await ask('POST', '/v1/upload', { checkpointId: 'ck-1' });

    const cancelled = await ask('POST', `/v1/transfers/${String(lines[0]?.['transferId'])}/cancel`);

    expect(cancelled).toMatchObject({ status: 200, lines: [{ status: 'cancelled' }] });
  });

  it.each([
    ['POST', '/v1/upload', { checkpointId: 'a/b' }],
    ['POST', '/v1/download', { checkpointId: 'ck-1' }],
    ['GET', '/v1/transfers/0123456789abcdef', undefined],
    ['GET', '/v1/transfers/0123456789abcdef/progress', undefined],
    ['POST', '/v1/constructor', {}],
    ['GET', '/elsewhere', undefined],
  ])('refuse %s %s with %j', async (method, path, body) => {
    const answer = await ask(method, path, body);

    expect(answer).toMatchObject({ status: 400, lines: [{ error: { type: 'InvalidInput' } }] });
  });

  it('name a transfer that is not there by what was asked for', async () => {
    expect((await ask('GET', '/v1/transfers/nope')).lines[0]).toMatchObject({
      error: { type: 'InvalidInput', message: expect.stringContaining('no transfer nope') as string },
    });
  });

  it('name the store, whose objects root reads and of which it writes leases and notes of verification alone', async () => {
    const backend = await openSidecarBackend(sockets.http, 'node-a');

    await backend.put('leases/read-ck-1.json', new Uint8Array(3));
    await backend.put('checkpoints/ck-1/verified-0123456789abcdef.json', new Uint8Array(3));

    expect(backend.url).toBe(`file://${root}/store`);
    expect((await backend.head('leases/read-ck-1.json'))?.bytes).toBe(3);
    for (const key of [
      'packs/a',
      'checkpoints/ck-1/manifest.json',
      'checkpoints/ck-1/verified-0.json',
      'condemned/a.json',
      'index/a',
    ]) {
      await expect(backend.put(key, new Uint8Array(3)), key).rejects.toMatchObject({ type: 'StorageDenied' });
      await expect(backend.delete(key), key).rejects.toMatchObject({ type: 'StorageDenied' });
    }
  });
});
