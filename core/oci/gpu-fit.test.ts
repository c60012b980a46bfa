import { describe, expect, it } from 'vitest';
import { type GpuFit, askedGpus, presentSource, sourcesToCheck, withGpus, withMemory, withoutGpus } from './gpu-fit.ts';
import { restorePlan } from './restore-plan.ts';
import { restoredSpec } from './restored-spec.ts';
import type { OciLinux, OciSpec } from './spec.ts';

const GIB = 1024 ** 3;
const FIT: GpuFit = {
  nodes: [
    { path: '/dev/nvidia1', major: 195, minor: 1 },
    { path: '/dev/nvidiactl', major: 195, minor: 255 },
    { path: '/dev/nvidia-uvm', major: 511, minor: 0 },
  ],
  memoryBytes: 8 * GIB,
  driver: { was: '580.159.04', is: '590.1' },
};
const allow = (
  major: number,
  minor: number,
): { allow: boolean; type: string; major: number; minor: number; access: string } => ({
  allow: true,
  type: 'c',
  major,
  minor,
  access: 'rwm',
});
const DENY = { allow: false, access: 'rwm' };
const CAPTURED: OciLinux = {
  devices: [
    { path: '/dev/fuse', type: 'c', major: 10, minor: 229 },
    { path: '/dev/nvidia0', type: 'c', major: 195, minor: 0 },
    { path: '/dev/nvidia-uvm', type: 'c', major: 508, minor: 0 },
    { path: '/dev/nvidia-modeset', type: 'c', major: 195, minor: 254 },
  ],
  resources: {
    memory: { limit: GIB, swap: 2 * GIB },
    devices: [DENY, allow(10, 229), allow(195, 0), allow(195, 7), allow(508, 0), allow(195, 254)],
  },
};

describe('the devices of a specification', () => {
  it('lose every node and rule of GPUs of another place, those of bound nodes included', () => {
    const { devices, resources } = withoutGpus(CAPTURED);

    expect(devices?.map(({ path }) => path)).toEqual(['/dev/fuse', '/dev/nvidia-modeset']);
    expect(resources?.devices).toEqual([DENY, allow(10, 229), allow(195, 254)]);
    expect(resources?.memory).toEqual(CAPTURED.resources?.memory);
  });

  it('get nodes and rules of the GPUs here, once', () => {
    const once = withGpus({ resources: { devices: [DENY, allow(195, 1)] } }, FIT.nodes);

    expect(once.resources?.devices).toEqual([DENY, allow(195, 1), allow(195, 255), allow(511, 0)]);
    expect(once.devices?.map(({ path, type }) => `${type} ${path}`)).toEqual([
      'c /dev/nvidia1',
      'c /dev/nvidiactl',
      'c /dev/nvidia-uvm',
    ]);
    expect(withGpus(once, FIT.nodes)).toEqual(once);
  });
});

describe('the memory limit', () => {
  it.each<[string, OciLinux, unknown]>([
    ['is raised, and swap with it', CAPTURED, { limit: 8 * GIB, swap: 9 * GIB }],
    ['stays when it is high enough', { resources: { memory: { limit: 9 * GIB } } }, { limit: 9 * GIB }],
    ['stays away when there is none', { resources: {} }, undefined],
    ['stays off when it means none', { resources: { memory: { limit: -1 } } }, { limit: -1 }],
    [
      'is raised without unlimited swap',
      { resources: { memory: { limit: 1, swap: -1 } } },
      { limit: 8 * GIB, swap: -1 },
    ],
  ])('%s', (_title, linux, memory) => {
    expect(withMemory(linux, 8 * GIB).resources?.memory).toEqual(memory);
  });
});

describe('a file of the driver', () => {
  const old = '/usr/lib/libcuda.so.580.159.04';
  const mine = '/usr/lib/libcuda.so.590.1';

  it.each<[string, string, readonly string[], string | undefined]>([
    ['is taken where it is', old, [old, mine], old],
    ['is taken in the version that is here', old, [mine], mine],
    ['is missed when no version is here', old, [], undefined],
    ['is a node: another GPU stands in', '/dev/nvidia0', ['/dev/nvidia1'], '/dev/nvidia1'],
    ['has no other version without one in its name', '/usr/bin/nvidia-smi', [mine], undefined],
  ])('%s', (_title, source, present, found) => {
    expect(presentSource(source, new Set(present), FIT)).toBe(found);
  });

  it('is looked for under both names', () => {
    const spec: OciSpec = { mounts: [{ destination: old, source: old, type: 'bind' }] };

    expect(sourcesToCheck([spec, spec], ['/dev/nvidia0'], FIT)).toEqual([old, '/dev/nvidia0', mine, '/dev/nvidia1']);
    expect(sourcesToCheck([spec], [])).toEqual([old]);
  });
});

describe('a restore with GPUs', () => {
  const library = '/usr/lib/libcuda.so.580.159.04';
  const captured: OciSpec = {
    mounts: [{ destination: library, source: library, type: 'bind', options: ['bind', 'ro'] }],
    linux: CAPTURED,
    hooks: { createContainer: [{ path: '/usr/bin/nvidia-cdi-hook', args: ['nvidia-cdi-hook', 'update-ldcache'] }] },
  };
  const target = restoredSpec({
    captured,
    source: { namespace: 'n', id: 'a' },
    container: { namespace: 'n', id: 'b' },
    operationId: 'f'.repeat(32),
    restoreFrom: 'ck',
    tcp: 'close',
    onFailure: 'fail',
    unverified: false,
    gpu: FIT,
  });
  const plan = (present: readonly string[], hookMounts?: { destination: string; source: string }[]) =>
    restorePlan({
      newSpec: target,
      capturedSpec: captured,
      metadata: {
        capture: {
          engine: 'runc',
          method: 'criu',
          tcp: 'close',
          after: 'stop',
          criuOptions: [{ option: 'external mnt[/x]:/x', reason: 'a hook' }],
          phases: { freezeMs: 0, totalMs: 0, unaccountedMs: 0, parts: {} },
        },
        stdio: { terminal: false, stdin: 'null', stdout: 'null', stderr: 'null' },
        ...(hookMounts === undefined ? {} : { hookMounts }),
      },
      create: { globals: [], root: '/r', logFormat: 'json', id: 'b', noPivot: false },
      bundle: '/b',
      imageDir: '/i',
      workDir: '/w',
      tcp: 'close',
      presentSources: new Set(present),
      gpu: FIT,
    });

  it('keeps the limit of the new container in what its manager knows, and raises it for the runtime alone', () => {
    expect(target.linux?.resources?.memory).toEqual({ limit: GIB, swap: 2 * GIB });
    expect(plan([library]).spec.linux?.resources?.memory).toEqual({ limit: 8 * GIB, swap: 9 * GIB });
  });

  it('brings no rule of the old GPUs back', () => {
    const rules = plan([library]).spec.linux?.resources?.devices ?? [];

    expect(rules).toEqual([DENY, allow(10, 229), allow(195, 254), allow(195, 1), allow(195, 255), allow(511, 0)]);
  });

  it('takes the library of this driver under the old name, warns of it, and leaves the hooks out', () => {
    const { spec, warnings } = plan(['/usr/lib/libcuda.so.590.1']);

    expect(spec.mounts).toEqual([
      { destination: library, source: '/usr/lib/libcuda.so.590.1', type: 'bind', options: ['bind', 'ro'] },
    ]);
    expect(spec.hooks).toEqual({ createContainer: [] });
    expect(warnings.join()).toMatch(/libcuda\.so\.590\.1 takes its place.*hook .*nvidia-cdi-hook is left out/);
  });

  it('tells CRIU where the mounts of a hook lie here', () => {
    const mounts = [
      { destination: '/x', source: library },
      { destination: '/dev/nvidia0', source: '/dev/nvidia0' },
    ];

    expect(plan([library, '/dev/nvidia1'], mounts).criuConfigText).toBe(
      `tcp-close\nlibdir /proc/self\nexternal mnt[/x]:${library}\nexternal mnt[/dev/nvidia0]:/dev/nvidia1\n`,
    );
  });

  it('refuses a mount of a hook whose source is not here, or cannot be told', () => {
    const mounts = [
      { destination: '/x', source: '/gone' },
      { destination: '/a b', source: library },
    ];

    expect(() => plan([library], mounts)).toThrow(/\/gone does not exist on this node.*cannot be told to CRIU/);
  });
});

describe('askedGpus', () => {
  it.each<[string, OciSpec, unknown]>([
    [
      'the device nodes',
      { linux: { devices: [{ path: '/dev/nvidia3', type: 'c', major: 195, minor: 3 }] } },
      { minors: [3] },
    ],
    [
      'the last variable',
      { process: { env: ['NVIDIA_VISIBLE_DEVICES=0', 'NVIDIA_VISIBLE_DEVICES=GPU-a,1'] } },
      { names: ['GPU-a', '1'] },
    ],
    ['nothing, by CDI without nodes', { process: { env: ['NVIDIA_VISIBLE_DEVICES=void'] } }, undefined],
    ['all', { process: { env: ['NVIDIA_VISIBLE_DEVICES=all'] } }, undefined],
    ['no word', {}, undefined],
  ])('reads %s', (_title, spec, asked) => {
    expect(askedGpus(spec)).toEqual(asked);
  });
});
