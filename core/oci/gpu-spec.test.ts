/* Whole specifications as containerd, the CRI plug-in, Docker, CDI and NVIDIA's hook write them, and what becomes of them. */
import { describe, expect, it } from 'vitest';
import { type DriverFiles, driverEdits, driverVersionIn } from './driver-edits.ts';
import { gpuWish, withGpuEdits } from './gpu-spec.ts';
import { type OciSpec, parseSpec, specText } from './spec.ts';

const DRIVER: DriverFiles = {
  version: '580.159.04',
  gpus: [0, 1].map((minor) => ({
    uuid: `GPU-00000000-0000-0000-0000-00000000000${minor}`,
    model: 'NVIDIA H100 80GB HBM3',
    node: { path: `/dev/nvidia${minor}`, major: 195, minor },
  })),
  nodes: [
    { path: '/dev/nvidiactl', major: 195, minor: 255 },
    { path: '/dev/nvidia-uvm', major: 511, minor: 0 },
  ],
  libraries: [
    {
      source: '/usr/lib/x86_64-linux-gnu/libcuda.so.580.159.04',
      dir: '/usr/lib/x86_64-linux-gnu',
      names: ['libcuda.so.580.159.04', 'libcuda.so.1', 'libcuda.so'],
    },
    {
      source: '/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.159.04',
      dir: '/usr/lib/x86_64-linux-gnu',
      names: ['libnvidia-ml.so.580.159.04', 'libnvidia-ml.so.1'],
    },
  ],
  programs: [{ source: '/usr/bin/nvidia-smi', path: '/usr/bin/nvidia-smi' }],
};

const BASE = {
  ociVersion: '1.2.1',
  root: { path: 'rootfs' },
  mounts: [
    { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
    { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'mode=755'] },
  ],
};
const DENY = { allow: false, access: 'rwm' };

/** Fields that the code does not know (`ociVersion`, `cpu`, `rlimits`) stand for all that travels through. */
const SAMPLES: Record<string, object> = {
  containerd: {
    ...BASE,
    process: {
      args: ['python3', 'train.py'],
      env: ['PATH=/usr/bin', 'NVIDIA_VISIBLE_DEVICES=all', 'LD_LIBRARY_PATH=/opt/lib'],
      rlimits: [{ type: 'RLIMIT_NOFILE', hard: 1024, soft: 1024 }],
    },
    linux: { resources: { devices: [DENY] }, cgroupsPath: '/default/train' },
  },
  cri: {
    ...BASE,
    process: {
      args: ['serve'],
      env: ['PATH=/usr/bin', 'NVIDIA_VISIBLE_DEVICES=GPU-00000000-0000-0000-0000-000000000001'],
    },
    annotations: {
      'io.kubernetes.cri.container-type': 'container',
      'io.kubernetes.cri.container-name': 'server',
      'kybernate.io/gpus': 'all',
      'kybernate.io/gpus.server': 'all',
    },
    linux: { resources: { devices: [DENY], cpu: { shares: 2 }, memory: { limit: 1073741824 } } },
  },
  docker: {
    ...BASE,
    process: { env: ['NVIDIA_VISIBLE_DEVICES=1'], rlimits: [{ type: 'RLIMIT_MEMLOCK', hard: 1, soft: 1 }] },
    hooks: { prestart: [{ path: '/proc/1/exe', args: ['libnetwork-setkey'] }] },
    linux: { devices: [{ path: '/dev/fuse', type: 'c', major: 10, minor: 229, fileMode: 438 }], resources: {} },
  },
  'legacy-hook': {
    ...BASE,
    process: { env: ['NVIDIA_VISIBLE_DEVICES=0', 'NVIDIA_DRIVER_CAPABILITIES=compute'] },
    hooks: {
      prestart: [
        { path: '/usr/bin/nvidia-container-runtime-hook', args: ['nvidia-container-runtime-hook', 'prestart'] },
        { path: '/opt/other-hook' },
      ],
    },
    linux: { resources: { devices: [DENY] } },
  },
};

const CDI_EDITED = {
  ...BASE,
  process: { env: ['NVIDIA_VISIBLE_DEVICES=void'] },
  annotations: { 'kybernate.io/gpus': 'all' },
  mounts: [
    ...BASE.mounts,
    {
      destination: '/usr/lib/x86_64-linux-gnu/libcuda.so.580.159.04',
      source: '/usr/lib/x86_64-linux-gnu/libcuda.so.580.159.04',
      options: ['ro', 'bind'],
    },
  ],
  hooks: { createContainer: [{ path: '/usr/bin/nvidia-cdi-hook', args: ['nvidia-cdi-hook', 'update-ldcache'] }] },
};

/** Reader, patcher and writer, as the wrapper joins them. */
function patched(text: string, searched: (dir: string) => boolean = () => true): string {
  const spec = parseSpec(text, 'config.json');
  const wish = gpuWish(spec);
  return wish === undefined ? text : specText(withGpuEdits(spec, driverEdits(DRIVER, wish, searched)));
}

describe('a specification that asks for GPUs', () => {
  it.each(Object.keys(SAMPLES))('of %s gets nodes, rules and libraries, and keeps the rest', async (name) => {
    const text = patched(JSON.stringify(SAMPLES[name]));

    await expect(`${JSON.stringify(JSON.parse(text), null, 1)}\n`).toMatchFileSnapshot(`golden/gpu-${name}.txt`);
  });

  it.each(Object.keys(SAMPLES))('of %s is not changed a second time', (name) => {
    const once = patched(JSON.stringify(SAMPLES[name]));

    expect(patched(once)).toBe(once);
  });

  it('mounts the libraries where the loader of another distribution is told to look', () => {
    const spec = JSON.parse(patched(JSON.stringify(SAMPLES['containerd']), () => false)) as OciSpec;

    expect(spec.process?.env).toContain('LD_LIBRARY_PATH=/opt/lib:/usr/local/nvidia/lib64');
    expect(spec.mounts?.map((mount) => mount.destination)).toContain('/usr/local/nvidia/lib64/libcuda.so.1');
  });

  it('keeps integers that no number of JavaScript holds', () => {
    const text = JSON.stringify(SAMPLES['docker']).replace('"hard":1', '"hard":18446744073709551615');

    expect(patched(text)).toContain('"hard":18446744073709551615,"soft":1');
  });

  it('is told which GPUs there are when it names another one', () => {
    const spec = { annotations: { 'kybernate.io/gpus': '0,7' } };

    expect(() => patched(JSON.stringify(spec))).toThrow(
      /kybernate\.io\/gpus asks for GPU 7, which this node does not have; it has 0 GPU-0{8}.*H100.*, 1 GPU-/,
    );
  });
});

const IN_POD = { 'io.kubernetes.cri.container-type': 'container', 'io.kubernetes.cri.container-name': 'server' };

describe('gpuWish', () => {
  it.each<[string, OciSpec]>([
    ['asks for none', { process: { env: ['A=1'] } }],
    ['says void', { process: { env: ['NVIDIA_VISIBLE_DEVICES=void'] } }],
    ['says none', { process: { env: ['NVIDIA_VISIBLE_DEVICES=none'] } }],
    ['says nothing', { process: { env: ['NVIDIA_VISIBLE_DEVICES='] } }],
    [
      'is that of a pod',
      { annotations: { 'kybernate.io/gpus': 'all', 'io.kubernetes.cri.container-type': 'sandbox' } },
    ],
    ['CDI has edited', CDI_EDITED],
    [
      'has a device of the driver',
      {
        process: { env: ['NVIDIA_VISIBLE_DEVICES=all'] },
        linux: { devices: [{ path: '/dev/nvidia0', type: 'c', major: 195, minor: 0 }] },
      },
    ],
    [
      'is taken back by an annotation',
      { process: { env: ['NVIDIA_VISIBLE_DEVICES=all'] }, annotations: { 'kybernate.io/gpus': 'none' } },
    ],
    [
      'of a pod says all, as every CUDA image does',
      { process: { env: ['NVIDIA_VISIBLE_DEVICES=all'] }, annotations: IN_POD },
    ],
    ['of a pod counts GPUs', { process: { env: ['NVIDIA_VISIBLE_DEVICES=0,1'] }, annotations: IN_POD }],
    ['of a pod asks by annotation', { annotations: { ...IN_POD, 'kybernate.io/gpus': 'all' } }],
  ])('is undefined where the specification %s', (_title, spec) => {
    expect(gpuWish(spec)).toBeUndefined();
  });

  it('takes in a pod what a device plug-in writes: UUIDs', () => {
    const uuid = 'GPU-a0f27ab8-244e-9e45-ffc4-e79224ad60c6';
    const env = [`NVIDIA_VISIBLE_DEVICES=${uuid}`];

    expect(gpuWish({ process: { env }, annotations: IN_POD })?.gpus).toEqual([uuid]);
  });

  it('takes the last variable, and all when it is one of several', () => {
    const env = ['NVIDIA_VISIBLE_DEVICES=3', 'NVIDIA_VISIBLE_DEVICES=0, all'];

    expect(gpuWish({ process: { env } })).toEqual({ gpus: 'all', origin: 'variable NVIDIA_VISIBLE_DEVICES' });
  });
});

describe('driverVersionIn', () => {
  it.each([
    [
      'NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (dvs-builder@U)',
      '580.159.04',
    ],
    ['NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024', '550.54.14'],
    ['GCC version:  gcc version 12.2.0', undefined],
    ['', undefined],
  ])('reads %j as %j', (text, version) => {
    expect(driverVersionIn(text)).toBe(version);
  });
});
