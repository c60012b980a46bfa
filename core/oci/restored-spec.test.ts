import { describe, expect, it } from 'vitest';
import { namespaceReasons, restoredSpec } from './restored-spec.ts';

const INPUT = {
  captured: {
    process: { env: ['A=1', 'RESTORE_FROM=older'] },
    annotations: { 'io.kubernetes.cri.sandbox-id': 's', 'kybernate.io/restore-from': 'older', mine: 'x' },
    linux: {
      cgroupsPath: '/default/web',
      namespaces: [
        { type: 'network', path: '/var/run/netns/a' },
        { type: 'ipc', path: '/proc/7/ns/ipc' },
        { type: 'pid', path: '/proc/7/ns/pid' },
        { type: 'mount' },
      ],
    },
  },
  source: { namespace: 'default', id: 'web' },
  container: { namespace: 'other', id: 'web-2' },
  operationId: 'f'.repeat(32),
  restoreFrom: 'ck-1',
  tcp: 'close',
  onFailure: 'fail',
  unverified: false,
} as const;

describe('restoredSpec', () => {
  it('asks for the restore of its operation and keeps no tie to pod or older restore', () => {
    const spec = restoredSpec(INPUT);

    expect(spec.annotations).toEqual({
      mine: 'x',
      'kybernate.io/restore-from': 'ck-1',
      'kybernate.io/operation': 'f'.repeat(32),
      'kybernate.io/tcp': 'close',
      'kybernate.io/on-failure': 'fail',
    });
    expect(spec.process?.env).toEqual(['A=1']);
  });

  it.each([
    ['/default/web', '/other/web-2'],
    ['/kubepods/besteffort/pod1/web', '/kubepods/besteffort/pod1/web-2'],
    ['system.slice:cri:web', 'system.slice:cri:web-2'],
  ])('names the cgroup %s %s', (captured, expected) => {
    const linux = { ...INPUT.captured.linux, cgroupsPath: captured };

    expect(restoredSpec({ ...INPUT, captured: { ...INPUT.captured, linux } }).linux?.cgroupsPath).toBe(expected);
  });

  it('joins the network that it is given and makes what a process of the source owned its own', () => {
    const { namespaces } = restoredSpec({ ...INPUT, networkNamespace: '/var/run/netns/b' }).linux ?? {};

    expect(namespaces).toEqual([
      { type: 'network', path: '/var/run/netns/b' },
      { type: 'ipc' },
      { type: 'pid', path: '/proc/7/ns/pid' },
      { type: 'mount' },
    ]);
  });
});

describe('namespaceReasons', () => {
  it('objects to a path that is gone and to one below the pid of a process, which may be another by now', () => {
    expect(namespaceReasons(restoredSpec(INPUT), () => false)).toEqual([
      'network namespace: /var/run/netns/a does not exist on this node',
      'pid namespace: /proc/7/ns/pid belongs to a process of the source and is not a safe place to join',
    ]);
  });
});
