import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { parseMountinfo } from '../../native/proc/mounts.ts';
import { memoryCgroup, memoryHierarchy, planMemoryRaises } from './memory-plan.ts';

const MIB = 1024 * 1024;
let root: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'kybernate-memory-plan-'));
});
afterEach(() => rmSync(root, { recursive: true }));

function cgroup(path: string, files: Readonly<Record<string, number | string>>): void {
  mkdirSync(join(root, path), { recursive: true });
  for (const [name, content] of Object.entries(files)) {
    writeFileSync(join(root, path, name), `${content}\n`);
  }
}

function plan(version: 1 | 2, path: string, bytes: number, others: ReadonlyMap<string, string> = new Map()) {
  const needs = [{ hostPid: 1, bytes }];
  return planMemoryRaises(needs, others, () => ({ version, root, path: join(root, path) }));
}

test('v2: the container and the pod are raised, outermost first, where the room does not suffice', () => {
  cgroup('', { 'memory.max': 1 });
  cgroup('pod', { 'memory.max': 500 * MIB, 'memory.high': 'max', 'memory.current': 300 * MIB });
  cgroup('pod/c', { 'memory.max': 400 * MIB, 'memory.high': 380 * MIB, 'memory.current': 200 * MIB });

  const { raises, refusals } = plan(2, 'pod/c', 300 * MIB);

  expect(refusals).toEqual([]);
  expect(raises.map(({ file, before }) => [file.slice(root.length), Number(before) / MIB])).toEqual([
    ['/pod/memory.max', 500],
    ['/pod/c/memory.max', 400],
    ['/pod/c/memory.high', 380],
  ]);
  expect(raises.map(({ after }) => Number(after) / MIB)).toEqual([724, 614, 614]);
});

test('v1: memory and swap together is raised before memory alone, which must not exceed it', () => {
  cgroup('c', {
    'memory.limit_in_bytes': 400 * MIB,
    'memory.usage_in_bytes': 100 * MIB,
    'memory.memsw.limit_in_bytes': 400 * MIB,
    'memory.memsw.usage_in_bytes': 120 * MIB,
  });

  const { raises } = plan(1, 'c', 300 * MIB);

  expect(raises.map(({ file }) => file.slice(root.length))).toEqual([
    '/c/memory.memsw.limit_in_bytes',
    '/c/memory.limit_in_bytes',
  ]);
  expect(Number(raises[0]?.after)).toBeGreaterThanOrEqual(Number(raises[1]?.after));
});

test('nothing is raised where there is room, no limit, or no such controller', () => {
  cgroup('a', { 'memory.max': 'max', 'memory.current': 1 });
  cgroup('a/b', { 'memory.max': 900 * MIB, 'memory.current': 100 * MIB });
  cgroup('a/b/c', {});

  expect(plan(2, 'a/b/c', 300 * MIB)).toEqual({ raises: [], refusals: [] });
});

test('file pages count as room', () => {
  cgroup('c', { 'memory.max': 500 * MIB, 'memory.current': 480 * MIB, 'memory.stat': `inactive_file ${400 * MIB}` });

  expect(plan(2, 'c', 300 * MIB).raises).toEqual([]);
});

test('the needs of all processes below a cgroup add up in it', () => {
  cgroup('pod', { 'memory.max': 700 * MIB, 'memory.current': 0 });
  cgroup('pod/a', { 'memory.max': 500 * MIB, 'memory.current': 0 });
  cgroup('pod/b', { 'memory.max': 500 * MIB, 'memory.current': 0 });
  const needs = [
    { hostPid: 1, bytes: 350 * MIB },
    { hostPid: 2, bytes: 350 * MIB },
  ];

  const { raises } = planMemoryRaises(needs, new Map(), (pid) => ({
    version: 2,
    root,
    path: join(root, pid === 1 ? 'pod/a' : 'pod/b'),
  }));

  expect(raises.map(({ file }) => file.slice(root.length))).toEqual(['/pod/memory.max']);
});

test('a limit that another operation has raised is no room that lasts', () => {
  cgroup('c', { 'memory.max': 100 * MIB, 'memory.current': 0 });

  const others = (before: number) => new Map([[join(root, 'c/memory.max'), String(before)]]);
  const refused = { raises: [], refusals: [expect.stringMatching(/raised by another operation now: try again/)] };

  expect(plan(2, 'c', 300 * MIB, others(50 * MIB))).toEqual(refused);
  cgroup('c', { 'memory.max': 900 * MIB, 'memory.current': 0 });
  expect(plan(2, 'c', 300 * MIB, others(50 * MIB))).toEqual(refused);
  expect(plan(2, 'c', 300 * MIB, others(500 * MIB))).toEqual({ raises: [], refusals: [] });
});

test.each([
  [
    'v1',
    '31 23 0:34 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n',
    '9:memory:/pod/c\n0::/x\n',
    { version: 1, path: '/sys/fs/cgroup/memory/pod/c', root: '/sys/fs/cgroup/memory' },
  ],
  [
    'v2',
    '31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n',
    '0::/pod/c\n',
    { version: 2, path: '/sys/fs/cgroup/pod/c', root: '/sys/fs/cgroup' },
  ],
])('the memory cgroup of a process is found: %s', (_title, mounts, text, expected) => {
  expect(memoryCgroup(1, memoryHierarchy(parseMountinfo(mounts)), text)).toEqual(expected);
});
