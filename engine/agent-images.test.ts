import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { copyLogs, deliverImages } from './agent-images.ts';
import { readImageGpu } from './gpu/image-gpu.ts';

let dir: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'agent-images-'));
  for (const path of ['staging/criu', 'staging/logs', 'staging/cuda', 'images', 'work']) {
    mkdirSync(join(dir, path), { recursive: true });
  }
});

afterEach(() => rmSync(dir, { recursive: true, force: true }));

const PROCESS = { hostPid: 7, nsPid: 1, vramBytes: 5, devices: ['GPU-a'], visible: ['GPU-a'] };
const DEVICE = { uuid: 'GPU-a', name: 'H100', minor: 0, memoryTotalBytes: 9, computeCapability: '9.0', usedBytes: 5 };
const STATE = { version: 1, driver: '580.1', devices: [DEVICE], processes: [{ ...PROCESS, state: 'checkpointed' }] };

function deliver(state: string): Promise<void> {
  writeFileSync(join(dir, 'staging/criu/core-1.img'), 'new');
  writeFileSync(join(dir, 'staging/logs/dump.log'), 'log');
  writeFileSync(join(dir, 'staging/cuda/state.json'), state);
  writeFileSync(join(dir, 'images/core-1.img'), 'of an earlier dump');
  return deliverImages(join(dir, 'staging'), join(dir, 'images'), join(dir, 'work'));
}

it('images replace those of an earlier dump, and say which GPU processes they hold', async () => {
  await deliver(JSON.stringify(STATE));

  expect(readFileSync(join(dir, 'images/core-1.img'), 'utf8')).toBe('new');
  expect(readdirSync(join(dir, 'images'))).toEqual(['core-1.img', 'kybernate-gpu.json']);
  expect(readdirSync(join(dir, 'work'))).toEqual(['dump.log']);
  const found = readImageGpu(join(dir, 'images'));
  expect(found).toMatchObject({ gpuProcesses: [PROCESS], gpu: { driver: '580.1', devices: [DEVICE] } });
  expect(found?.sizes.imageBytes).toBeGreaterThan(3);
});

it('a directory of images alone has no GPU part, and a damaged one is refused by its name', async () => {
  expect(readImageGpu(join(dir, 'images'))).toBeUndefined();

  await deliver('{"processes":');

  expect(() => readImageGpu(join(dir, 'images'))).toThrow(/kybernate-gpu\.json is not readable/);
});

it('logs of a capture that never began are no error', async () => {
  await copyLogs(join(dir, 'nowhere'), join(dir, 'work'));

  expect(readdirSync(join(dir, 'work'))).toEqual([]);
});
