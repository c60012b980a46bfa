import { describe, expect, it } from 'vitest';
import type { OciNamespace, OciSpec } from './spec.ts';
import { idMappingOf, mappedRoot, userNamespaceReasons } from './user-namespace.ts';

const RANGES = [
  { containerID: 0, hostID: 100_000, size: 1000 },
  { containerID: 1000, hostID: 300_000, size: 10 },
];

function spec(namespaces: readonly OciNamespace[], linux: OciSpec['linux'] = {}): OciSpec {
  return { linux: { namespaces, uidMappings: RANGES, gidMappings: RANGES.slice(0, 1), ...linux } };
}

const OWN = spec([{ type: 'user' }, { type: 'network' }]);

describe('a container in a user namespace', () => {
  it('has a root who is somebody else on the host, and mappings in the form of containerd', () => {
    expect(mappedRoot(OWN)).toEqual({ uid: 100_000, gid: 100_000 });
    expect(idMappingOf(OWN)).toEqual({ uid: '0:100000:1000,1000:300000:10', gid: '0:100000:1000' });
    expect(userNamespaceReasons(OWN)).toEqual([]);
  });

  it('is nobody else without one, or in that of another', () => {
    const without = spec([{ type: 'network' }]);
    expect([mappedRoot(without), idMappingOf(without)]).toEqual([undefined, undefined]);
    expect(mappedRoot(spec([{ type: 'user', path: '/proc/7/ns/user' }]))).toBeUndefined();
    expect(userNamespaceReasons(without)).toEqual([]);
  });

  it.each<[string, OciSpec, RegExp]>([
    [
      'joined that of another',
      spec([{ type: 'user', path: '/proc/7/ns/user' }]),
      /joined the user namespace \/proc\/7/,
    ],
    [
      'joined a network that was there before',
      spec([{ type: 'user' }, { type: 'network', path: '/run/netns/a' }]),
      /joined the network namespace \/run\/netns\/a, which does not belong to it/,
    ],
    ['maps no root', spec([{ type: 'user' }], { gidMappings: RANGES.slice(1) }), /maps no user or group 0/],
  ])('is refused when it %s', (_what, refused, reason) => {
    expect(userNamespaceReasons(refused)).toEqual([expect.stringMatching(reason)]);
  });
});
