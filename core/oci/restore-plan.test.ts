import { describe, expect, it } from 'vitest';
import { isKybernateError } from '../errors.ts';
import { type RestorePlanInput, restorePlan } from './restore-plan.ts';
import type { OciSpec } from './spec.ts';

const CREATE = {
  globals: ['--root', '/run/containerd/runc/k8s.io', '--log', '/b/log.json', '--log-format', 'json'],
  root: '/run/containerd/runc/k8s.io',
  log: '/b/log.json',
  logFormat: 'json',
  id: 'new',
  pidFile: '/b/init.pid',
  noPivot: false,
} as const;

const CAPTURED: OciSpec = {
  process: { terminal: false, args: ['serve'], env: ['A=old'] },
  root: { path: 'rootfs' },
  hostname: 'old-pod',
  mounts: [
    { destination: '/proc', type: 'proc', source: 'proc' },
    { destination: '/dev', type: 'tmpfs', source: 'tmpfs' },
    { destination: '/etc/hosts', type: 'bind', source: '/pods/old/hosts', options: ['rbind'] },
    { destination: '/data', type: 'bind', source: '/srv/data', options: ['rbind', 'rw'] },
    { destination: '/cache', type: 'tmpfs', source: 'tmpfs' },
  ],
  linux: {
    cgroupsPath: '/kubepods/old',
    namespaces: [
      { type: 'pid' },
      { type: 'mount' },
      { type: 'network', path: '/var/run/netns/old' },
      { type: 'uts', path: '/proc/1/ns/uts' },
      { type: 'ipc', path: '/proc/1/ns/ipc' },
    ],
    devices: [{ path: '/dev/fuse', type: 'c', major: 10, minor: 229 }],
    resources: {
      devices: [
        { allow: false, access: 'rwm' },
        { allow: true, type: 'c', major: 1, minor: 3, access: 'rwm' },
        { allow: true, type: 'c', major: 10, minor: 229, access: 'rwm' },
      ],
    },
    maskedPaths: ['/proc/kcore', '/proc/keys'],
    readonlyPaths: ['/proc/sys'],
  },
};

/** The pod that takes over: other paths, another cgroup, no device, no data volume. */
const NEW: OciSpec = {
  process: { terminal: false, args: ['serve'], env: ['A=new', 'RESTORE_FROM=ck-1', 'B=1'] },
  root: { path: 'rootfs' },
  hostname: 'new-pod',
  annotations: { 'kybernate.io/restore-from': 'ck-1' },
  hooks: {
    prestart: [
      { path: '/usr/bin/nvidia-container-runtime-hook', args: ['x', 'prestart'] },
      { path: '/opt/cni/hook', args: [] },
    ],
  },
  mounts: [
    { destination: '/proc', type: 'proc', source: 'proc' },
    { destination: '/dev', type: 'tmpfs', source: 'tmpfs' },
    { destination: '/etc/hosts', type: 'bind', source: '/pods/new/hosts', options: ['rbind'] },
    { destination: '/extra', type: 'bind', source: '/srv/extra', options: ['rbind'] },
  ],
  linux: {
    cgroupsPath: '/kubepods/new',
    namespaces: [
      { type: 'pid' },
      { type: 'mount' },
      { type: 'network', path: '/var/run/netns/new' },
      { type: 'uts', path: '/proc/2/ns/uts' },
      { type: 'ipc', path: '/proc/2/ns/ipc' },
    ],
    resources: {
      devices: [
        { allow: false, access: 'rwm' },
        { allow: true, type: 'c', major: 1, minor: 3, access: 'rwm' },
      ],
    },
    maskedPaths: ['/proc/kcore'],
  },
};

const METADATA: NonNullable<RestorePlanInput['metadata']> = {
  capture: {
    engine: 'runc',
    method: 'criu',
    tcp: 'keep',
    after: 'resume',
    criuOptions: [
      { option: 'tcpEstablished', reason: 'open connections' },
      { option: 'fileLocks', reason: 'a lock' },
      { option: '--ext-unix-sk', reason: 'a socket' },
      { option: 'linkRemap', reason: 'a deleted file' },
    ],
    phases: { freezeMs: 0, totalMs: 0, unaccountedMs: 0, parts: {} },
  },
  stdio: { terminal: false, stdin: 'null', stdout: 'pipe', stderr: 'pipe' },
};

const INPUT: RestorePlanInput = {
  newSpec: NEW,
  capturedSpec: CAPTURED,
  metadata: METADATA,
  create: CREATE,
  bundle: '/b',
  imageDir: '/c/criu',
  workDir: '/w',
  tcp: 'close',
  presentSources: new Set(['/srv/data', '/pods/old/hosts']),
};

const GPU_FIT = { nodes: [], memoryBytes: 0, driver: { was: '580.0', is: '580.0' } };

function reasonsOf(input: RestorePlanInput): unknown {
  try {
    restorePlan(input);
  } catch (error) {
    return isKybernateError(error, 'Incompatible') ? error.details['reasons'] : error;
  }
  return [];
}

describe('restorePlan', () => {
  it.each<
    [
      string,
      Partial<Omit<RestorePlanInput, 'metadata'>> & { metadata?: RestorePlanInput['metadata'] | undefined },
      boolean,
    ]
  >([
    ['a container without GPU processes', {}, false],
    ['GPU processes', { gpu: GPU_FIT }, true],
    ['GPU processes in bare images', { gpu: GPU_FIT, metadata: undefined }, true],
    [
      'GPU processes that containerd dumped, whose images may name a plugin',
      { gpu: GPU_FIT, metadata: { ...METADATA, capture: { ...METADATA.capture, engine: 'containerd' } } },
      false,
    ],
  ])("turns CRIU's plugins off for %s: %s", (_title, changes, off) => {
    const { metadata, ...rest } = { ...INPUT, ...changes };
    const { criuConfigText } = restorePlan({ ...rest, ...(metadata === undefined ? {} : { metadata }) });

    expect(criuConfigText.includes('libdir /proc/self\n')).toBe(off);
  });

  it('fits the specification of a new pod to the images of an old one', async () => {
    const plan = restorePlan(INPUT);

    await expect(`${JSON.stringify(plan, null, 2)}\n`).toMatchFileSnapshot('golden/pod.txt');
  });

  it('gives a container of a pod nothing of the host that the pod does not give it', () => {
    const annotations = { ...NEW.annotations, 'io.kubernetes.cri.sandbox-name': 'web-1' };
    const presentSources = new Set(['/srv/data', '/pods/old/hosts']);
    const input = { ...INPUT, newSpec: { ...NEW, annotations }, presentSources };

    expect(reasonsOf(input)).toEqual([
      "device c 10:229 rwm: the source's pod was given it, and this one is not",
      'mount /data: the source had a volume there, and this pod has none: give its container a volumeMount',
    ]);
  });

  it('changes nothing of the specification for a bare image but the variable, and allows what is harmless', async () => {
    const { capturedSpec: _spec, metadata: _metadata, ...bare } = INPUT;

    const plan = restorePlan({ ...bare, tcp: 'keep' });

    await expect(`${JSON.stringify(plan, null, 2)}\n`).toMatchFileSnapshot('golden/bare-image.txt');
  });

  it('keeps connections when asked, and tells which table holds them back', () => {
    const metadata = {
      ...METADATA,
      capture: { ...METADATA.capture, networkHold: { table: 'kybernate-hold', networkNamespace: '/n' } },
    };

    const plan = restorePlan({ ...INPUT, metadata, tcp: 'keep' });

    expect(plan.argv).toContain('--tcp-established');
    expect(plan.criuConfigText).toBe('');
    expect(plan.networkHoldTable).toBe('kybernate-hold');
  });

  it('closes connections that the dump closed already, whatever is asked', () => {
    const metadata = { ...METADATA, capture: { ...METADATA.capture, tcp: 'close' as const } };

    expect(restorePlan({ ...INPUT, metadata, tcp: 'keep' }).argv).not.toContain('--tcp-established');
  });

  it('sets the host name of a UTS namespace of its own only where it is another', () => {
    const own = (hostname: string): OciSpec => ({
      ...NEW,
      hostname,
      linux: {
        ...NEW.linux,
        namespaces: CAPTURED.linux?.namespaces?.map((n) => (n.type === 'uts' ? { type: 'uts' } : n)) ?? [],
      },
    });

    expect(restorePlan({ ...INPUT, newSpec: own('new-pod') }).hostname).toEqual({ set: 'new-pod' });
    expect(restorePlan({ ...INPUT, newSpec: own('old-pod') }).hostname).toBeUndefined();
  });

  it('shows the images to the root of a user namespace, whom CRIU reads them as', () => {
    const mappings = [{ containerID: 0, hostID: 100_000, size: 65_536 }];
    const mapped = (spec: OciSpec): OciSpec => ({
      ...spec,
      linux: {
        ...spec.linux,
        namespaces: [...(spec.linux?.namespaces ?? []), { type: 'user' }],
        uidMappings: mappings,
        gidMappings: mappings,
      },
    });

    const plan = restorePlan({ ...INPUT, newSpec: mapped(NEW), capturedSpec: mapped(CAPTURED) });

    expect(plan.imageReader).toEqual({ uid: 100_000, gid: 100_000 });
    expect(plan.argv[plan.argv.indexOf('--image-path') + 1]).toBe('/proc/self/fd/9');
    expect(restorePlan(INPUT).imageReader).toBeUndefined();
  });

  it('lists every reason at once why the container cannot take the images', () => {
    const newSpec: OciSpec = {
      process: { terminal: true },
      mounts: [{ destination: '/data/', type: 'tmpfs', source: 'tmpfs' }],
      linux: {
        namespaces: [{ type: 'network' }, { type: 'user' }, { type: 'uts' }, { type: 'cgroup', path: '/x' }],
        uidMappings: [{ containerID: 0, hostID: 1000, size: 1 }],
      },
    };

    expect(reasonsOf({ ...INPUT, newSpec, presentSources: new Set() })).toEqual([
      'the checkpoint was taken without a terminal, the new container wants one',
      'network namespace: a joined one at the dump, one of its own now',
      "pid namespace: one of its own at the dump, the host's now",
      "user namespace: the host's at the dump, one of its own now",
      'cgroup namespace: a restore cannot join one',
      'uidMappings of the user namespace differ',
      'mount /etc/hosts: /pods/old/hosts does not exist on this node',
      'mount /data: /srv/data does not exist on this node',
    ]);
  });

  describe("outside of pods, of a pod's container", () => {
    const podDir = '/var/lib/kubelet/pods/u-1';
    const shm = { destination: '/dev/shm', type: 'bind', source: '/run/sandboxes/s-1/shm', options: ['rbind'] };
    const capturedSpec = {
      ...CAPTURED,
      annotations: { 'io.kubernetes.cri.sandbox-id': 's-1', 'io.kubernetes.cri.sandbox-uid': 'u-1' },
      mounts: [...(CAPTURED.mounts ?? []), shm],
    };
    const presentSources = new Set([...INPUT.presentSources, shm.source, `${podDir}/etc-hosts`]);
    const tmpfs = { destination: '/dev/shm', type: 'tmpfs', source: 'shm' };

    it.each([
      ['asks for none', NEW],
      ['asks for a tmpfs', { ...NEW, mounts: [...(NEW.mounts ?? []), tmpfs] }],
    ])('has a /dev/shm of its own where the new container %s', (_what, newSpec) => {
      const plan = restorePlan({ ...INPUT, capturedSpec, newSpec, presentSources });

      expect(plan.ownShm).toBe(true);
      expect(plan.criuConfigText).toContain('external mnt[/dev/shm]:/dev/shm\n');
      expect(plan.spec.mounts?.filter(({ destination }) => destination === '/dev/shm')).toEqual([
        expect.objectContaining({ type: 'tmpfs' }),
      ]);
    });

    it('takes the /dev/shm that its creator mounts there', () => {
      const newSpec = { ...NEW, mounts: [...(NEW.mounts ?? []), { ...shm, source: '/srv/shm' }] };

      const plan = restorePlan({ ...INPUT, capturedSpec, newSpec, presentSources });

      expect(plan.ownShm).toBeUndefined();
      expect(plan.spec.mounts).toContainEqual({ ...shm, source: '/srv/shm' });
    });

    it('is not given what the pod may still write to, and is told', () => {
      const hosts = { destination: '/etc/hosts', type: 'bind', source: `${podDir}/etc-hosts`, options: ['rbind'] };
      const token = { ...hosts, destination: '/token', options: ['rbind', 'ro'] };
      const newSpec = { ...NEW, mounts: [] };

      const reasons = reasonsOf({
        ...INPUT,
        capturedSpec: { ...capturedSpec, mounts: [hosts, token] },
        newSpec,
        presentSources,
      });

      expect(reasons).toEqual([expect.stringContaining(`mount /etc/hosts: ${podDir}/etc-hosts belongs to the pod`)]);
    });

    it('is not given the volume of another copy either, which lives', () => {
      const place = `/state/volumes/${'f'.repeat(32)}/0-cache`;
      const cache = { destination: '/cache', type: 'bind', source: place, options: ['rbind'] };

      const reasons = reasonsOf({
        ...INPUT,
        capturedSpec: { ...capturedSpec, mounts: [cache] },
        newSpec: { ...NEW, mounts: [] },
        presentSources: new Set([place]),
      });

      expect(reasons).toEqual([
        expect.stringContaining(`mount /cache: ${place} belongs to the pod of the source, or to`),
      ]);
    });
  });
});
