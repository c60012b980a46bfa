import { describe, expect, it } from 'vitest';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import type { GpuDevice, GpuDriver } from '../../native/cuda/gpu-driver.ts';
import type { NodeDeps } from '../node-deps.ts';
import { allowedGpus, planGpuRestore, restoreMemoryBytes, shortOfVram } from './restore-target.ts';

const MIB = 1024 ** 2;
const [A, B] = ['GPU-a', 'GPU-b'] as const;

function device(uuid: string, minor: number, more: Partial<GpuDevice> = {}): GpuDevice {
  return {
    uuid,
    minor,
    index: 1 - minor,
    name: 'H100',
    memoryTotalBytes: 1000 * MIB,
    memoryFreeBytes: 900 * MIB,
    computeCapability: '9.0',
    mig: false,
    ...more,
  };
}

function driver(more: Partial<GpuDriver> = {}): GpuDriver {
  const never = (): never => {
    throw new Error('not to be called');
  };
  return {
    version: '580.159.04',
    apiVersion: 13_000,
    devices: () => [device(A, 0), device(B, 1)],
    memoryInUse: () => [],
    processState: never,
    lock: never,
    lockPending: never,
    checkpoint: never,
    restore: never,
    unlock: never,
    ...more,
  };
}

const { memoryFreeBytes: _free, mig: _mig, index: _index, ...described } = device(A, 0);
const GPU = {
  gpuProcesses: [{ hostPid: 1, nsPid: 1, vramBytes: 100 * MIB, devices: [A], visible: [A] }],
  gpu: { driver: '580.95.05', devices: [{ ...described, usedBytes: 100 * MIB }] },
  sizes: { totalBytes: 0, imageBytes: 10 * MIB, rootfsBytes: 0 },
} as Pick<Metadata, 'gpuProcesses' | 'gpu' | 'sizes'> as Metadata;

interface Given {
  readonly driver?: GpuDriver;
  readonly metadata?: Metadata;
  readonly map?: readonly { readonly from: string; readonly to: string }[];
  readonly vram?: ReadonlyMap<string, number>;
  readonly memoryBytes?: number;
}

function plan(given: Given = {}): ReturnType<typeof planGpuRestore> {
  const deps = {
    settings: { node: 'n1' } as NodeDeps['settings'],
    gpu: () => ({ driver: given.driver ?? driver() }),
  };
  return planGpuRestore(deps, given.metadata ?? GPU, {
    map: given.map ?? [],
    reserved: () => Promise.resolve({ vram: given.vram ?? new Map(), memoryBytes: given.memoryBytes ?? 0 }),
  });
}

describe('a plan for the GPUs of a restore', () => {
  it('names places, nodes, and what the restore will take', async () => {
    const answer = await plan({ map: [{ from: A, to: B }] });

    expect(answer.findings).toEqual([]);
    expect(answer.plan).toMatchObject({
      map: [{ from: A, to: B }],
      vram: { [B]: 100 * MIB },
      memoryBytes: Math.ceil(652 * MIB * 1.1),
      fit: { driver: { was: '580.95.05', is: '580.159.04' } },
    });
    expect(answer.plan?.fit.nodes.map(({ path }) => path).slice(0, 2)).toEqual(['/dev/nvidia1', '/dev/nvidiactl']);
  });

  it('loads no driver and reads no reservation without GPU processes', async () => {
    const never = (): never => {
      throw new Error('loaded');
    };
    const metadata = { ...GPU, gpuProcesses: [] };
    const deps = { settings: { node: 'n1' } as NodeDeps['settings'], gpu: never };

    expect(await planGpuRestore(deps, metadata, { map: [], reserved: never })).toEqual({ findings: [] });
    expect(
      (await planGpuRestore(deps, metadata, { map: [{ from: A, to: B }], reserved: never })).findings,
    ).toMatchObject([{ code: 'gpu-devices', message: 'gpuMap: the checkpoint has no GPU process' }]);
  });

  it.each<[string, Given, RegExp]>([
    ['an older driver', { driver: driver({ version: '570.1' }) }, /driver 570\.1 is older than 580\.95\.05/],
    [
      'a driver that cannot move GPUs',
      { driver: driver({ apiVersion: 12_080 }), map: [{ from: A, to: B }] },
      /API 12080 cannot restore onto another GPU/,
    ],
    [
      'VRAM promised to others',
      { vram: new Map([A, B].map((uuid) => [uuid, 850 * MIB])) },
      /GPU-a has 52428800 bytes free/,
    ],
    ['memory promised to others', { memoryBytes: 2 ** 50 }, /n1 has 0 bytes of memory left, \d+ are needed/],
    ['no word of its GPUs', { metadata: { ...GPU, gpu: undefined } }, /does not say on which/],
  ])('gives %s as a reason', async (_title, given, why) => {
    const answer = await plan(given);

    expect(answer.plan).toBeUndefined();
    expect(answer.findings.map(({ message }) => message).join('; ')).toMatch(why);
  });

  it.each<[string, Given, string]>([
    ['GPUs that are full now', { vram: new Map([A, B].map((uuid) => [uuid, 850 * MIB])) }, 'gpu-memory'],
    ['GPUs that will never do', { map: [{ from: A, to: 'GPU-gone' }] }, 'gpu-devices'],
    [
      'both',
      { map: [{ from: A, to: 'GPU-gone' }], vram: new Map([A, B].map((uuid) => [uuid, 850 * MIB])) },
      'gpu-devices',
    ],
  ])('tells %s from others', async (_title, given, code) => {
    expect([...new Set((await plan(given)).findings.map((finding) => finding.code))]).toEqual([code]);
  });

  it('says why there is no driver', async () => {
    const deps = { settings: { node: 'n1' } as NodeDeps['settings'], gpu: () => ({ reason: 'no library' }) };

    const answer = await planGpuRestore(deps, GPU, { map: [], reserved: () => Promise.reject(new Error('asked')) });

    expect(answer.findings).toMatchObject([
      { code: 'gpu-driver', message: 'it has GPU processes, and n1 has no NVIDIA driver: no library' },
    ]);
  });

  it('takes an older patch release of the same driver for the same', async () => {
    expect((await plan({ driver: driver({ version: '580.95.01' }) })).findings).toEqual([]);
  });
});

it('the room in memory is that of the images where they are bigger than the VRAM', () => {
  const sizes = { totalBytes: 0, imageBytes: 10_000 * MIB, rootfsBytes: 0 };

  expect(restoreMemoryBytes({ ...GPU, sizes })).toBe(Math.ceil(11_000 * MIB));
});

it.each([
  ['by minor', { minors: [1] }, [B]],
  ['by UUID', { names: [B] }, [B]],
  ['by the index of nvidia-smi, not by minor', { names: ['0'] }, [B]],
  ['as none that is here', { names: ['GPU-x'] }, []],
])('GPUs that a container was given are found %s', (_title, asked, expected) => {
  expect([...(allowedGpus(driver().devices(), asked) ?? [])]).toEqual(expected);
});

it('VRAM that others took or were promised is missed right before the restore', () => {
  const reserved = { vram: new Map([[A, 850 * MIB]]), memoryBytes: 0 };
  const needed = { [A]: 100 * MIB, [B]: 900 * MIB, 'GPU-gone': 1 };

  expect(shortOfVram(driver(), needed, reserved)).toEqual([
    `GPU ${A} has ${50 * MIB} bytes free, ${100 * MIB} are needed`,
    'GPU GPU-gone has 0 bytes free, 1 are needed',
  ]);
});
