/* A false containerd on a real socket. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Server, ServerCredentials, type sendUnaryData } from '@grpc/grpc-js';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { criState } from './cri.ts';
import { methodOf } from './protos.ts';

let dir: string;
let address: string;
let server: Server;
let plugins: object[];
let info: Record<string, string>;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'cri-'));
  address = join(dir, 'containerd.sock');
  server = new Server();
  server.addService(
    { Plugins: methodOf('introspection.v1.Introspection', 'Plugins') },
    { Plugins: (_call: unknown, reply: sendUnaryData<object>) => reply(null, { plugins }) },
  );
  server.addService(
    { Status: methodOf('runtime.v1.RuntimeService', 'Status') },
    { Status: (_call: unknown, reply: sendUnaryData<object>) => reply(null, { info }) },
  );
  await new Promise<void>((resolve, reject) => {
    server.bindAsync(`unix:${address}`, ServerCredentials.createInsecure(), (error) =>
      error === null ? resolve() : reject(error),
    );
  });
});
afterEach(() => {
  server.forceShutdown();
  rmSync(dir, { recursive: true });
});

test('a plug-in that could not start is told by name, with its error', async () => {
  plugins = [
    { type: 'io.containerd.cri.v1', id: 'runtime', initErr: { code: 2, message: 'invalid plugin config' } },
    { type: 'io.containerd.grpc.v1', id: 'cri', initErr: { code: 2, message: 'unable to load CRI runtime service' } },
  ];

  expect(await criState(address)).toEqual({
    plugin: 'failed',
    error: 'io.containerd.cri.v1.runtime: invalid plugin config',
  });
});

test('one that is not there is off, whatever else containerd has loaded or not', async () => {
  plugins = [{ type: 'io.containerd.nri.v1', id: 'nri', initErr: { code: 2, message: 'of no interest' } }];

  expect(await criState(address)).toEqual({ plugin: 'off' });
});

test('the runtimes are those of the configuration that it runs with', async () => {
  plugins = [{ type: 'io.containerd.grpc.v1', id: 'cri' }];
  info = { config: JSON.stringify({ containerd: { runtimes: { runc: {}, kybernate: { runtimePath: '/opt/k' } } } }) };

  expect(await criState(address)).toEqual({
    plugin: 'loaded',
    runtimes: new Map([
      ['runc', undefined],
      ['kybernate', '/opt/k'],
    ]),
  });
  info = {};
  expect(await criState(address)).toEqual({ plugin: 'loaded' });
});
