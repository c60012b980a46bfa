import { describe, expect, it } from 'vitest';
import { type CdiHost, type CdiSpec, cdiEdits, parseCdi } from './cdi.ts';
import type { GpuWish } from './gpu-spec.ts';

const UUID = 'GPU-11111111-0000-0000-0000-000000000001';
const HOOK = '/usr/bin/nvidia-cdi-hook';
const LIB = '/usr/lib/x86_64-linux-gnu/libcuda.so.580.159.04';

/** As nvidia-ctk writes it, shortened. */
const FILE = {
  cdiVersion: '0.5.0',
  kind: 'nvidia.com/gpu',
  devices: [
    { name: '0', containerEdits: { deviceNodes: [{ path: '/dev/nvidia0' }, { path: '/dev/dri/card1', type: 'c' }] } },
    { name: '1', containerEdits: { deviceNodes: [{ path: '/dev/nvidia1', hostPath: '/host/nvidia1' }] } },
    { name: 'all', containerEdits: { deviceNodes: [{ path: '/dev/nvidia0' }, { path: '/dev/nvidia1' }] } },
  ],
  containerEdits: {
    env: ['NVIDIA_VISIBLE_DEVICES=void'],
    deviceNodes: [{ path: '/dev/nvidiactl', major: 195, minor: 255 }],
    mounts: [{ hostPath: LIB, containerPath: LIB, options: ['ro', 'nosuid', 'nodev', 'bind'] }],
    hooks: [
      { hookName: 'createContainer', path: HOOK, args: ['nvidia-cdi-hook', 'create-symlinks', '--link', 'a::b'] },
      {
        hookName: 'createContainer',
        path: HOOK,
        args: ['nvidia-cdi-hook', 'update-ldcache', '--folder', '/usr/lib64'],
      },
      { hookName: 'createContainer', path: HOOK, args: ['nvidia-cdi-hook', 'disable-device-node-modification'] },
    ],
  },
};

const NODES: Record<string, number> = { '/dev/nvidia0': 0, '/dev/nvidia1': 1, '/host/nvidia1': 1, '/dev/dri/card1': 9 };

const HOST: CdiHost = {
  node: (path) => (NODES[path] === undefined ? undefined : { major: 195, minor: NODES[path] }),
  exists: () => true,
  links: () => ['libcuda.so.1'],
  gpus: [
    { uuid: 'GPU-0', model: 'm', node: { path: '/dev/nvidia0', major: 195, minor: 0 } },
    { uuid: UUID, model: 'm', node: { path: '/dev/nvidia1', major: 195, minor: 1 } },
  ],
};

function read(value: unknown): CdiSpec[] {
  const spec = parseCdi(value, '/etc/cdi/nvidia.yaml');
  return spec === undefined ? [] : [spec];
}

function edits(gpus: GpuWish['gpus'], host: CdiHost = HOST): ReturnType<typeof cdiEdits> & { warnings: string[] } {
  const warnings: string[] = [];
  const found = cdiEdits(read(FILE), { gpus, origin: 'annotation x' }, host, warnings);
  if (found === undefined) {
    throw new Error('no edits');
  }
  return { ...found, warnings };
}

describe('cdiEdits', () => {
  it('joins what the device and what every device brings, once each', () => {
    const found = edits('all');

    expect(found.nodes).toEqual([
      { path: '/dev/nvidia0', major: 195, minor: 0 },
      { path: '/dev/nvidia1', major: 195, minor: 1 },
      { path: '/dev/nvidiactl', major: 195, minor: 255 },
    ]);
    expect(found.env).toEqual(['NVIDIA_VISIBLE_DEVICES=void']);
    expect(found.mounts).toEqual([
      { destination: LIB, source: LIB, type: 'bind', options: ['ro', 'nosuid', 'nodev', 'bind', 'rprivate'] },
    ]);
  });

  it('keeps hooks that write files and leaves out one that mounts', () => {
    const found = edits(['0']);

    expect(found.hooks['createContainer']?.map((hook) => hook.args?.[1])).toEqual([
      'create-symlinks',
      'update-ldcache',
    ]);
    expect(found.hooks['createContainer']?.[0]).not.toHaveProperty('hookName');
    expect(found.warnings).toEqual([expect.stringContaining('disable-device-node-modification')]);
    expect(found.libraryDirs).toEqual([]);
  });

  it('mounts libraries under the names of their links where the program of the hooks is not installed', () => {
    const found = edits(['0'], { ...HOST, exists: () => false });

    expect(found.hooks).toEqual({});
    expect(found.libraryDirs).toEqual(['/usr/lib64']);
    expect(found.mounts.map((mount) => mount.destination)).toEqual([LIB, '/usr/lib/x86_64-linux-gnu/libcuda.so.1']);
  });

  it('finds a GPU by its UUID where the specification knows its index alone', () => {
    expect(edits([UUID]).nodes.map((node) => node.path)).toEqual(['/dev/nvidia1', '/dev/nvidiactl']);
  });

  it('names the GPUs that there are when another one is asked for', () => {
    expect(() => edits(['0', '5'])).toThrow(/annotation x asks for GPU 5.*it has 0, 1, all \(CDI\)/);
  });

  it('refuses a node that is not there any more', () => {
    expect(() => edits(['0'], { ...HOST, node: () => undefined })).toThrow(/\/dev\/nvidia0.*cdi generate/);
  });

  it('is undefined where nothing is described', () => {
    expect(cdiEdits([], { gpus: 'all', origin: 'x' }, HOST, [])).toBeUndefined();
  });
});

describe('parseCdi', () => {
  it('leaves the devices of other vendors alone', () => {
    expect(parseCdi({ kind: 'vendor.com/net', devices: 'x' }, 'f')).toBeUndefined();
  });

  it('reads a name that YAML takes for a number', () => {
    expect(parseCdi({ kind: 'nvidia.com/gpu', devices: [{ name: 0 }] }, 'f')?.devices[0]?.name).toBe('0');
  });

  it.each([[null], [[]], [{ kind: 'nvidia.com/gpu' }], [{ kind: 'nvidia.com/gpu', devices: [{}] }]])(
    'refuses %j, naming the file',
    (value) => {
      expect(() => parseCdi(value, '/etc/cdi/x.json')).toThrow(/\/etc\/cdi\/x\.json is no CDI specification/);
    },
  );
});
