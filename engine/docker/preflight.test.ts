import { expect, it } from 'vitest';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import type { Docker, DockerContainer, DockerInfo } from '../../native/docker/docker.ts';
import { surveyDocker, type DockerPlace } from './preflight.ts';

const ID = 'a'.repeat(64);
const IMAGE = 'sha256:1';
const INFO: DockerInfo = {
  ServerVersion: '20.10.24',
  DockerRootDir: '/d',
  Driver: 'overlay2',
  Runtimes: { kybernate: { path: '/k/runc' } },
  DefaultRuntime: 'runc',
};
const STOPPED: DockerContainer = {
  Id: ID,
  Name: '/web',
  Image: IMAGE,
  State: { Status: 'exited', Running: false, Paused: false, Restarting: false, Pid: 0 },
  Config: { Image: 'web:1' },
  HostConfig: { Runtime: 'kybernate' },
  Mounts: [],
  NetworkSettings: { Networks: {} },
  GraphDriver: { Name: 'overlay2', Data: { UpperDir: '/d/diff' } },
};
const PLACE: DockerPlace = {
  name: 'web',
  operationId: 'op',
  tcp: 'close',
  host: { listening: [{ address: '0.0.0.0', port: 8080 }], addresses: new Set() },
  exists: (path) => path === '/here',
  holderOf: () => undefined,
};
const SPEC = { linux: { namespaces: [{ type: 'network' }] } };

function metadata(docker: Partial<NonNullable<Metadata['container']['docker']>> = {}): Metadata {
  const facts = {
    name: 'web',
    image: { ref: 'web:1', id: IMAGE },
    config: {},
    hostConfig: {},
    networks: { bridge: {} },
    mounts: [],
    version: '20.10.24',
    ...docker,
  };
  return { container: { id: ID, docker: facts }, capture: { tcp: 'keep' } } as unknown as Metadata;
}

function daemon(more: Partial<Docker> = {}): Docker {
  const none = (): Promise<never> => Promise.reject(new Error('nothing may be changed'));
  return {
    info: () => Promise.resolve(INFO),
    container: () => Promise.resolve(undefined),
    image: (ref) => Promise.resolve(ref === 'web:1' ? IMAGE : undefined),
    hasVolume: (name) => Promise.resolve(name === 'there'),
    hasNetwork: (name) => Promise.resolve(name === 'bridge'),
    createContainer: none,
    connectNetwork: none,
    startContainer: none,
    killContainer: none,
    removeContainer: none,
    ...more,
  };
}

const messages = async (docker: Docker, of = metadata(), place = PLACE): Promise<string[]> =>
  (await surveyDocker(docker, of, SPEC, place)).findings.map(({ message }) => message);

const withContainer = (found: DockerContainer): Docker => daemon({ container: () => Promise.resolve(found) });

it('a name that nobody has is for a new container, the stopped source continues', async () => {
  expect(await surveyDocker(daemon(), metadata(), SPEC, PLACE)).toEqual({
    findings: [],
    target: { kind: 'new', image: 'web:1' },
  });
  expect(await surveyDocker(withContainer(STOPPED), metadata(), SPEC, PLACE)).toEqual({
    findings: [],
    target: { kind: 'same', id: ID, upperDir: '/d/diff' },
  });
});

it('a source into which another restore was interrupted is told, the restore itself goes on', async () => {
  const held = { ...PLACE, holderOf: () => 'other' };

  expect(await messages(withContainer(STOPPED), metadata(), held)).toEqual([
    'restore other of container web was interrupted, and its files of before are not back yet',
  ]);
  expect(await messages(withContainer(STOPPED), metadata(), { ...held, operationId: 'other' })).toEqual([]);
});

it('an image whose name means another one here is taken by its id', async () => {
  const docker = daemon({ image: (ref) => Promise.resolve(ref === 'web:1' ? 'sha256:2' : IMAGE) });

  expect(await surveyDocker(docker, metadata(), SPEC, PLACE)).toMatchObject({
    findings: [{ code: 'image', severity: 'warning' }],
    target: { kind: 'new', image: IMAGE },
  });
});

it.each<[string, Docker, RegExp]>([
  [
    'a source that runs',
    withContainer({ ...STOPPED, State: { ...STOPPED.State, Running: true, Status: 'running' } }),
    /the source, is running/,
  ],
  [
    'a source of another runtime',
    withContainer({ ...STOPPED, HostConfig: { Runtime: 'runc' } }),
    /made with the runtime runc/,
  ],
  ['a source on another storage driver', withContainer({ ...STOPPED, GraphDriver: { Name: 'btrfs' } }), /lie in btrfs/],
  ['another container of that name', withContainer({ ...STOPPED, Id: 'b' }), /another container web/],
  [
    'a daemon without the runtime',
    daemon({ info: () => Promise.resolve({ ...INFO, Runtimes: {} }) }),
    /no runtime kybernate/,
  ],
  [
    'a daemon that maps users',
    daemon({ info: () => Promise.resolve({ ...INFO, SecurityOptions: ['name=userns'] }) }),
    /userns-remap/,
  ],
  ['a daemon without the image', daemon({ image: () => Promise.resolve(undefined) }), /has not the image web:1/],
])('%s is told', async (_title, docker, message) => {
  expect(await messages(docker)).toEqual([expect.stringMatching(message)]);
});

it('every volume, path, network, container and port that is missing or taken is told', async () => {
  const mount = { destination: '/m', writable: true };
  const of = metadata({
    mounts: [
      { ...mount, type: 'volume', name: 'gone', source: '/v/gone' },
      { ...mount, type: 'volume', name: 'there', source: '/v/there' },
      { ...mount, type: 'bind', source: '/away' },
      { ...mount, type: 'bind', source: '/here' },
    ],
    networks: { inner: {}, bridge: {} },
    hostConfig: {
      NetworkMode: 'container:peer',
      VolumesFrom: ['store:ro'],
      PortBindings: {
        '80/tcp': [
          { HostIp: '127.0.0.1', HostPort: '8080' },
          { HostIp: '', HostPort: '' },
        ],
        '81/tcp': null,
      },
    },
  });

  expect(await messages(daemon(), of)).toEqual([
    'mount /m: Docker has no volume gone',
    'mount /m: /away does not exist on this node',
    'Docker has no network inner',
    'it needs container peer, which Docker does not have',
    'it needs container store, which Docker does not have',
    "port 8080 of 127.0.0.1 is taken in the host's network",
  ]);
});

it('a checkpoint of another runtime is not for Docker', async () => {
  const { docker: _none, ...container } = metadata().container;

  expect(await messages(daemon(), { ...metadata(), container })).toEqual([expect.stringContaining('without --docker')]);
});
