import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { OciSpec } from '../core/oci/spec.ts';
import { podDirectories, volumePlaces, volumesOf } from './pod-directories.ts';

let kubeletDir: string;
let pod: string;
let shm: string;
beforeEach(() => {
  kubeletDir = mkdtempSync(join(tmpdir(), 'kybernate-kubelet-'));
  pod = join(kubeletDir, 'pods/u-1');
  shm = join(kubeletDir, 'sandboxes/s-1/shm');
  [join(pod, 'volumes/kubernetes.io~empty-dir/cache'), join(pod, 'volume-subpaths/cache/app/1'), shm].forEach((path) =>
    mkdirSync(path, { recursive: true }),
  );
});
afterEach(() => rmSync(kubeletDir, { recursive: true }));

function specOf(...sources: ReadonlyArray<readonly [destination: string, source: string]>): OciSpec {
  return {
    annotations: { 'io.kubernetes.cri.sandbox-id': 's-1', 'io.kubernetes.cri.sandbox-uid': 'u-1' },
    mounts: sources.map(([destination, source]) => ({ destination, source, type: 'bind', options: ['rbind', 'rw'] })),
  };
}

test('of the mounts of a container those that live and die with its pod are found', () => {
  const cache = join(pod, 'volumes/kubernetes.io~empty-dir/cache');
  const part = join(pod, 'volume-subpaths/cache/app/1');
  const spec = specOf(['/cache/', cache], ['/part', part], ['/dev/shm', shm], ['/etc/hosts', join(pod, 'etc-hosts')]);

  expect(podDirectories(spec, { kubeletDir })).toEqual([
    { name: 'cache', destination: '/cache', source: cache, isDirectory: true },
    { name: 'cache', destination: '/part', source: part, isDirectory: true },
    { name: '/dev/shm', destination: '/dev/shm', source: shm, isDirectory: true },
  ]);
});

test('a subPath of a volume that is no emptyDir, a link in place of one and the memory of the host are not', () => {
  const claim = join(pod, 'volume-subpaths/claim/app/0');
  mkdirSync(claim, { recursive: true });
  const link = join(pod, 'volumes/kubernetes.io~empty-dir/link');
  symlinkSync('/etc', link);

  expect(podDirectories(specOf(['/claim', claim], ['/link', link], ['/dev/shm', '/dev/shm']), { kubeletDir })).toEqual(
    [],
  );
});

test('content goes to the directory that the new pod has at the same place, and nowhere else', () => {
  const cache = join(pod, 'volumes/kubernetes.io~empty-dir/cache');
  const volumes = [
    { name: '/dev/shm', destination: '/dev/shm', file: 'fs/dev-shm.tar' },
    { name: 'scratch', destination: '/cache', file: 'fs/volume-0.tar' },
    { name: 'data', destination: '/data', file: 'fs/volume-1.tar' },
  ];
  const spec = specOf(['/cache', cache], ['/data', '/srv'], ['/dev/shm', shm]);

  expect(volumePlaces(volumes, spec, { kubeletDir })).toEqual({
    places: [
      { file: 'fs/dev-shm.tar', dir: shm },
      { file: 'fs/volume-0.tar', dir: cache },
    ],
    reasons: ['mount /data: the checkpoint has the content of its volume data, and this pod has no emptyDir there'],
  });
});

test('a checkpoint that does not tell its volumes has a /dev/shm where the file is there', () => {
  expect(volumesOf({}, pod)).toEqual([]);
  mkdirSync(join(pod, 'fs'));
  writeFileSync(join(pod, 'fs/dev-shm.tar'), '');

  expect(volumesOf({}, pod)).toEqual([{ name: '/dev/shm', destination: '/dev/shm', file: 'fs/dev-shm.tar' }]);
  expect(volumesOf({ volumes: [] }, pod)).toEqual([]);
});
