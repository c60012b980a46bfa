import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { cgroupPids, cgroupVersion, freezerCgroup, freezerPathIn } from './cgroup.ts';
import { parseMountinfo } from './mounts.ts';

const HYBRID = parseMountinfo(`31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime shared:9 - cgroup cgroup rw,freezer
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`);
const UNIFIED = parseMountinfo('31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n');
const PART = parseMountinfo('37 31 0:34 /docker/abc /sys/fs/cgroup/freezer ro - cgroup cgroup rw,freezer\n');

test.each([
  ['v1', HYBRID, '7:freezer:/default/c1\n0::/x\n', { version: 1, path: '/sys/fs/cgroup/freezer/default/c1' }],
  ['v1 beside others', HYBRID, '7:cpu,freezer:/c1\n', { version: 1, path: '/sys/fs/cgroup/freezer/c1' }],
  ['v2', UNIFIED, '0::/kubepods/pod1/c1\n', { version: 2, path: '/sys/fs/cgroup/kubepods/pod1/c1' }],
  ['a mounted part', PART, '7:freezer:/docker/abc/c1\n', { version: 1, path: '/sys/fs/cgroup/freezer/c1' }],
  ['no freezer', HYBRID, '3:memory:/c1\n', undefined],
])('the freezer of a process is found: %s', (_title, mounts, text, expected) => {
  expect(freezerPathIn(text, mounts)).toEqual(expected);
});

test('a hybrid machine counts as v1, a unified one as v2', () => {
  expect(cgroupVersion(HYBRID)).toBe(1);
  expect(cgroupVersion(UNIFIED)).toBe(2);
});

test('this process is in the cgroup that is found for it', () => {
  const found = freezerCgroup(process.pid);

  expect(found === undefined || cgroupPids(found.path).includes(process.pid)).toBe(true);
});

test('pids of groups below are counted, those of other pid namespaces not', () => {
  const dir = mkdtempSync(join(tmpdir(), 'kybernate-cgroup-'));
  mkdirSync(join(dir, 'below/deeper'), { recursive: true });
  writeFileSync(join(dir, 'cgroup.procs'), '30\n0\n');
  writeFileSync(join(dir, 'below/cgroup.procs'), '');
  writeFileSync(join(dir, 'below/deeper/cgroup.procs'), '4\n30\n');

  expect(cgroupPids(dir)).toEqual([4, 30]);
  expect(cgroupPids(join(dir, 'gone'))).toEqual([]);
  rmSync(dir, { recursive: true });
});

test('mounts are read with escaped blanks and optional fields', () => {
  const [mount] = parseMountinfo(
    '36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 propagate_from:2 - ext3 /dev/ro\\134ot rw,errors=continue\n',
  );

  expect(mount).toEqual({
    id: 36,
    parentId: 35,
    device: '98:0',
    root: '/mnt1',
    mountPoint: '/mnt 2',
    options: ['rw', 'noatime'],
    propagation: ['master:1', 'propagate_from:2'],
    type: 'ext3',
    source: '/dev/ro\\ot',
    superOptions: ['rw', 'errors=continue'],
  });
});
