import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, test } from 'vitest';
import { parseMountinfo } from '../../native/proc/mounts.ts';
import { majorsIn } from './device-nodes.ts';
import { memoryHierarchy, type MemoryRaisePlan } from './memory-plan.ts';
import { ancestorRaises, ancestorsOf, limitToPutBack } from './restore-memory.ts';

const MIB = 1024 * 1024;

test.each([
  ['/ns/id', ['/ns']],
  ['/kubepods/burstable/pod1/id', ['/kubepods', '/kubepods/burstable', '/kubepods/burstable/pod1']],
  [
    'kubepods-burstable-pod1.slice:cri-containerd:id',
    [
      '/kubepods.slice',
      '/kubepods.slice/kubepods-burstable.slice',
      '/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice',
    ],
  ],
  ['system.slice:docker:id', ['/system.slice']],
  ['', []],
])('the cgroups above %s are named from the top', (path, expected) => {
  expect(ancestorsOf(path)).toEqual(expected);
});

describe('limits above the container', () => {
  let root: string;
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'memory-'));
    mkdirSync(join(root, 'pods/pod'), { recursive: true });
  });
  afterEach(() => rmSync(root, { recursive: true, force: true }));

  const raisesFor = (bytes: number, version: 1 | 2, others: ReadonlyMap<string, string> = new Map()): MemoryRaisePlan =>
    ancestorRaises('/pods/pod/id', bytes, others, { version, root });
  const put = (dir: string, files: Readonly<Record<string, string>>): void =>
    Object.entries(files).forEach(([name, text]) => writeFileSync(join(root, dir, name), `${text}\n`));

  it('are raised where they leave too little, file pages not counted, on cgroup v2', () => {
    put('pods', { 'memory.max': 'max', 'memory.current': '900000' });
    put('pods/pod', {
      'memory.max': String(700 * MIB),
      'memory.current': String(600 * MIB),
      'memory.stat': `anon 100\nactive_file ${300 * MIB}\ninactive_file ${200 * MIB}`,
    });

    expect(raisesFor(400 * MIB, 2).raises).toEqual([]);
    expect(raisesFor(500 * MIB, 2)).toEqual({
      raises: [
        { file: join(root, 'pods/pod/memory.max'), before: String(700 * MIB), after: String((1100 * 1.1 + 64) * MIB) },
      ],
      refusals: [],
    });
  });

  it('are raised with the sum of memory and swap first on cgroup v1', () => {
    put('pods/pod', {
      'memory.limit_in_bytes': String(100 * MIB),
      'memory.memsw.limit_in_bytes': String(100 * MIB),
      'memory.usage_in_bytes': '100000',
    });

    expect(raisesFor(95 * MIB, 1).raises.map(({ file }) => file)).toEqual([
      join(root, 'pods/pod/memory.memsw.limit_in_bytes'),
      join(root, 'pods/pod/memory.limit_in_bytes'),
    ]);
  });

  it('are left to another operation that will put them back', () => {
    put('pods/pod', { 'memory.max': String(900 * MIB), 'memory.current': '0' });

    const { raises, refusals } = raisesFor(500 * MIB, 2, new Map([[join(root, 'pods/pod/memory.max'), '100']]));

    expect(raises).toEqual([]);
    expect(refusals).toEqual([expect.stringMatching(/raised by another operation now/)]);
  });
});

test('memory is counted by the v1 controller where there is one', () => {
  const both = parseMountinfo(
    '1 0 0:1 / /sys/fs/cgroup/unified rw - cgroup2 c rw\n2 0 0:2 / /sys/fs/cgroup/memory rw - cgroup c rw,memory\n',
  );

  expect(memoryHierarchy(both)).toEqual({ version: 1, root: '/sys/fs/cgroup/memory', mounted: '/' });
  expect(memoryHierarchy(both.slice(0, 1))).toEqual({ version: 2, root: '/sys/fs/cgroup/unified', mounted: '/' });
  expect(memoryHierarchy([])).toBeUndefined();
});

test('a limit is put back only where it is raised', () => {
  const spec = { linux: { resources: { memory: { limit: 10, swap: 20 } } } };

  expect(limitToPutBack(spec, 11)).toEqual({ limit: 10, swap: 20 });
  expect(limitToPutBack(spec, 10)).toBeUndefined();
  expect(limitToPutBack({}, 10)).toBeUndefined();
});

test('numbers of the driver come from the character devices', () => {
  const majors = majorsIn('Character devices:\n  1 mem\n195 nvidia\n511 nvidia-uvm\n\nBlock devices:\n  8 nvidia\n');

  expect(majors.get('nvidia')).toBe(195);
  expect(majors.get('nvidia-uvm')).toBe(511);
});
