import { expect, test } from 'vitest';
import { emptyDirOf, isSandboxShm } from './pod-volumes.ts';

const KUBELET = '/var/lib/kubelet';
const WHOLE = `${KUBELET}/pods/u-1/volumes/kubernetes.io~empty-dir/cache`;

test('an emptyDir is told by its place below the directory of kubelet, whole and by a subPath', () => {
  const cache = { name: 'cache', dir: WHOLE };

  expect(emptyDirOf(WHOLE, `${KUBELET}/`)).toEqual(cache);
  expect(emptyDirOf(`${KUBELET}/pods/u-1/volume-subpaths/cache/app/0`, KUBELET, 'u-1')).toEqual(cache);
});

test.each([
  ['a volume of another kind', `${KUBELET}/pods/u-1/volumes/kubernetes.io~configmap/cache`],
  ['a directory in one', `${WHOLE}/below`],
  ['a path that leads out', `${KUBELET}/pods/u-1/volumes/kubernetes.io~empty-dir/../cache`],
  ['a path of another directory that looks the same', `/srv${WHOLE}`],
  ['one of another pod', WHOLE.replace('u-1', 'u-2')],
  ['kubelet itself', KUBELET],
])('%s is none', (_what, source) => {
  expect(emptyDirOf(source, KUBELET, 'u-1')).toBeUndefined();
});

test('the shared memory of a pod is that of its own sandbox', () => {
  const shm = '/run/containerd/io.containerd.grpc.v1.cri/sandboxes/s1/shm';

  expect(isSandboxShm(shm, 's1')).toBe(true);
  expect(isSandboxShm('/run/containers/storage/overlay-containers/s1/userdata/shm', 's1')).toBe(true);
  expect(isSandboxShm(shm, 's2')).toBe(false);
  expect(isSandboxShm(shm, undefined)).toBe(false);
  expect(isSandboxShm('/dev/shm', 's1')).toBe(false);
});
