/* A false kubelet on a real socket. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Server, ServerCredentials, type sendUnaryData, type ServiceDefinition } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { protoDirectory } from '../proto-directory.ts';
import { podDevicesOf } from './pod-resources.ts';

const POD = { namespace: 'ml', name: 'train-0', container: 'app' };

let dir: string;
let server: Server;
let socket: string;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'kubelet-'));
  socket = join(dir, 'kubelet.sock');
  server = new Server();
  const loaded = loadSync('pod-resources.proto', { includeDirs: [join(protoDirectory(), 'kubelet')] });
  const devices = [
    { resourceName: 'nvidia.com/gpu', deviceIds: ['GPU-a', 'GPU-b'] },
    { resourceName: 'example.com/nic', deviceIds: ['eth7'] },
  ];
  const containers = [
    { name: 'app', devices },
    { name: 'other', devices: [{ resourceName: 'nvidia.com/gpu', deviceIds: ['GPU-c'] }] },
  ];
  server.addService(loaded['v1.PodResourcesLister'] as ServiceDefinition, {
    List: (_call: unknown, reply: sendUnaryData<object>) =>
      reply(null, {
        podResources: [
          { name: 'train-0', namespace: 'other', containers: [] },
          { name: 'train-0', namespace: 'ml', containers },
        ],
      }),
  });
  await new Promise<void>((resolve, reject) => {
    server.bindAsync(`unix:${socket}`, ServerCredentials.createInsecure(), (error) =>
      error === null ? resolve() : reject(error),
    );
  });
});
afterEach(() => {
  server.forceShutdown();
  rmSync(dir, { recursive: true, force: true });
});

test('the devices of one container of one pod are told, of every resource', async () => {
  expect(await podDevicesOf(socket)(POD)).toEqual([
    { resource: 'nvidia.com/gpu', id: 'GPU-a' },
    { resource: 'nvidia.com/gpu', id: 'GPU-b' },
    { resource: 'example.com/nic', id: 'eth7' },
  ]);
  expect(await podDevicesOf(socket)({ ...POD, name: 'nobody' })).toEqual([]);
});

test('a node without kubelet tells nothing; one whose kubelet does not answer says so', async () => {
  expect(await podDevicesOf(join(dir, 'nothing.sock'))(POD)).toBeUndefined();
  server.forceShutdown();

  await expect(podDevicesOf(dir)(POD)).rejects.toMatchObject({ type: 'NodeUnavailable' });
});
