import { expect, it } from 'vitest';
import type { DockerFacts } from '../container-facts.ts';
import { createBody, type CreateWish } from './create-body.ts';

const SOURCE = '0123456789abcdef'.repeat(4);
const WISH: CreateWish = { operationId: 'op', checkpointId: 'ck-1', sourceId: SOURCE, image: 'sha256:1' };

function facts(more: Partial<DockerFacts> = {}): DockerFacts {
  return {
    name: 'web',
    image: { ref: 'web:1', id: 'sha256:1' },
    config: { Image: 'web:1', Hostname: SOURCE.slice(0, 12), Env: ['A=1'], Labels: { team: 'a' } },
    hostConfig: { NetworkMode: 'none', Runtime: 'runc', Memory: 64, Binds: ['named:/named'] },
    networks: { none: {} },
    mounts: [],
    version: '20.10.24',
    ...more,
  };
}

it('a new container is made as its source was, with our runtime, and carries the operation', () => {
  expect(createBody(facts(), WISH)).toEqual({
    body: {
      Image: 'sha256:1',
      Hostname: '',
      Env: ['A=1'],
      Labels: { team: 'a', 'kybernate.io/operation': 'op', 'kybernate.io/restored-from': 'ck-1' },
      HostConfig: {
        NetworkMode: 'none',
        Runtime: 'kybernate',
        Memory: 64,
        Binds: ['named:/named'],
        ContainerIDFile: '',
      },
    },
    connect: [],
  });
});

it('a host name that somebody chose stays', () => {
  const { body } = createBody(facts({ config: { Image: 'web:1', Hostname: 'shop' } }), WISH);

  expect(body).toMatchObject({ Hostname: 'shop' });
});

it('volumes that no configuration names are named', () => {
  const volume = { type: 'volume', source: '/v', writable: true };
  const mounts = [
    { ...volume, name: 'named', destination: '/named' },
    { ...volume, name: 'f00d', destination: '/data' },
    { ...volume, name: 'cafe', destination: '/fixed', writable: false },
    { type: 'bind', source: '/etc', destination: '/etc', writable: false },
  ];

  const { body } = createBody(facts({ mounts }), WISH);

  expect(body).toMatchObject({ HostConfig: { Binds: ['named:/named', 'f00d:/data', 'cafe:/fixed:ro'] } });
});

it('it is made in the network of its mode and joins the others, with the addresses and names that somebody chose', () => {
  const chosen = {
    IPAMConfig: { IPv4Address: '10.0.0.9' },
    Aliases: [SOURCE.slice(0, 12), 'db'],
    IPAddress: '10.0.0.9',
  };
  const networks = { back: chosen, front: { IPAddress: '10.1.0.2', Aliases: null } };

  const { body, connect } = createBody(facts({ hostConfig: { NetworkMode: 'front' }, networks }), WISH);

  expect(body).toMatchObject({ NetworkingConfig: { EndpointsConfig: { front: {} } } });
  expect(connect).toEqual([
    { network: 'back', endpoint: { IPAMConfig: { IPv4Address: '10.0.0.9' }, Aliases: ['db'] } },
  ]);
});
