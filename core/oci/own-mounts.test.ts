import { describe, expect, it } from 'vitest';
import { OWN_SHM, ownMounts } from './own-mounts.ts';
import type { OciMount, OciSpec } from './spec.ts';

const POD = '/var/lib/kubelet/pods/u-1';
const SANDBOX = '/run/containerd/io.containerd.grpc.v1.cri/sandboxes/s-1';
const DIR = '/var/lib/kybernate/volumes/0123456789abcdef0123456789abcdef';

function bind(destination: string, source: string, ...options: string[]): OciMount {
  return { destination, source, type: 'bind', options: ['rbind', ...options] };
}

function inPod(...mounts: OciMount[]): OciSpec {
  return {
    mounts,
    hostname: 'web-0',
    annotations: { 'io.kubernetes.cri.sandbox-id': 's-1', 'io.kubernetes.cri.sandbox-uid': 'u-1' },
  };
}

const sourceAt = (mounts: readonly OciMount[], destination: string): string | undefined =>
  mounts.find((mount) => mount.destination === destination)?.source;

describe('ownMounts', () => {
  it('puts places of its own in the place of what lives in the pod, and leaves the rest as it is', () => {
    const cache = `${POD}/volumes/kubernetes.io~empty-dir/cache`;
    const spec = inPod(
      { destination: '/proc', type: 'proc', source: 'proc' },
      bind('/dev/shm', `${SANDBOX}/shm`),
      bind('/cache', cache),
      bind('/also', cache),
      bind('/scratch', `${POD}/volumes/kubernetes.io~empty-dir/scratch`),
      bind('/etc/hosts', `${POD}/etc-hosts`),
      bind('/etc/hostname', `${SANDBOX}/hostname`),
      bind('/last-words', `${POD}/containers/app/1a2b`),
      bind('/token', `${POD}/volumes/kubernetes.io~projected/token`, 'ro'),
      bind('/srv', '/srv/data'),
    );
    const volumes = [
      { name: '/dev/shm', destination: '/dev/shm', file: 'fs/dev-shm.tar' },
      { name: 'cache', destination: '/cache', file: 'fs/volume-0.tar' },
    ];

    const own = ownMounts(spec, volumes, DIR);

    expect(own.mounts.map(({ destination, source }) => [destination, source])).toEqual([
      ['/proc', 'proc'],
      ['/dev/shm', 'shm'],
      ['/cache', `${DIR}/0-cache`],
      ['/also', `${DIR}/0-cache`],
      ['/scratch', `${DIR}/1-scratch`],
      ['/etc/hosts', `${DIR}/2-etc-hosts`],
      ['/etc/hostname', `${DIR}/3-etc-hostname`],
      ['/last-words', `${DIR}/4-termination.log`],
      ['/token', `${POD}/volumes/kubernetes.io~projected/token`],
      ['/srv', '/srv/data'],
    ]);
    expect(own.mounts[1]).toEqual(OWN_SHM);
    expect(own.places.map(({ destination, kind }) => [destination, kind])).toEqual([
      ['/cache', 'directory'],
      ['/scratch', 'directory'],
      ['/etc/hosts', 'file'],
      ['/etc/hostname', 'file'],
      ['/last-words', 'file'],
    ]);
    expect(own.places[3]).toMatchObject({ from: `${SANDBOX}/hostname`, text: 'web-0\n' });
    expect(own).toMatchObject({ emptied: ['/scratch'], reasons: [] });
  });

  it("refuses a writable volume of the pod whose content nobody has, and leaves a path of the node its user's", () => {
    const claim = `${POD}/volumes/kubernetes.io~csi/pvc-1/mount`;

    const own = ownMounts(inPod(bind('/data', claim), bind('/logs', '/var/log/app')), [], DIR);

    expect(own.reasons).toEqual([expect.stringMatching(new RegExp(`^mount /data: ${claim} belongs to the pod`))]);
    expect([...own.replaced]).toEqual([]);
  });

  it('beside pods takes a captured /dev/shm and the places of an earlier restore from nobody', () => {
    const before = '/state/volumes/ffffffffffffffffffffffffffffffff';
    const spec = {
      mounts: [
        bind('/dev/shm', '/srv/shm'),
        bind('/cache', `${before}/0-cache`),
        bind('/etc/hosts', `${before}/1-etc-hosts`),
        bind('/last-words', `${before}/2-termination.log`),
        { ...bind('/shared', `${before}/3-shared`), options: ['rbind', 'rshared'] },
      ],
    };
    const volumes = [
      { name: '/dev/shm', destination: '/dev/shm', file: 'fs/dev-shm.tar' },
      { name: 'cache', destination: '/cache', file: 'fs/volume-0.tar' },
    ];

    const { mounts, places } = ownMounts(spec, volumes, DIR);

    expect(mounts[0]).toEqual(OWN_SHM);
    expect(sourceAt(mounts, '/cache')).toBe(`${DIR}/0-cache`);
    expect(places[1]).toMatchObject({ kind: 'file', from: `${before}/1-etc-hosts` });
    expect(places[2]).toMatchObject({ kind: 'file', from: `${before}/2-termination.log` });
    expect(mounts[4]?.options).toEqual(['rbind', 'rslave']);
  });

  it("leaves the host's /dev/shm of a pod with hostIPC, and what lies in the container's own layer", () => {
    const mounts = [bind('/dev/shm', '/dev/shm'), bind('/etc/hosts', 'rootfs/etc/hosts')];

    expect(ownMounts(inPod(...mounts), [], DIR)).toMatchObject({ mounts, places: [], reasons: [] });
  });
});
