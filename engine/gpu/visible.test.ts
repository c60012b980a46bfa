import { expect, test } from 'vitest';
import type { GpuDevice } from '../../native/cuda/gpu-driver.ts';
import { nodeMinorsOf, visibleDevices, type VisibleInput } from './visible.ts';

const DEVICES: readonly GpuDevice[] = [0, 1, 2].map((minor) => ({
  uuid: `GPU-${minor}`,
  minor,
  index: minor,
  name: 'H100',
  computeCapability: '9.0',
  mig: false,
  memoryTotalBytes: 1,
  memoryFreeBytes: 1,
}));

function visible(more: Partial<VisibleInput>): readonly string[] {
  return visibleDevices({
    devices: DEVICES,
    openMinors: new Set(),
    used: [],
    nodeMinors: new Set(),
    rules: [],
    ...more,
  });
}

test.each<[string, Partial<VisibleInput>, string[]]>([
  ['nothing', {}, []],
  ['what it has open', { openMinors: new Set([2]) }, ['GPU-2']],
  ['what it holds memory on', { used: ['GPU-1'] }, ['GPU-1']],
  [
    'nodes in its /dev, although it uses one alone',
    { used: ['GPU-1'], nodeMinors: new Set([0, 1]) },
    ['GPU-0', 'GPU-1'],
  ],
  ['no nodes of devices that the machine has not', { nodeMinors: new Set([7]) }, []],
])('a process sees %s', (_title, more, expected) => {
  expect(visible(more)).toEqual(expected);
});

test.each<[string, VisibleInput['rules'], string[]]>([
  ['everything is allowed', [{ allow: true, access: 'rwm' }], ['GPU-0', 'GPU-1']],
  [
    'one is allowed by its number',
    [
      { allow: false, access: 'rwm' },
      { allow: true, type: 'c', major: 195, minor: 1, access: 'rw' },
    ],
    ['GPU-1'],
  ],
  [
    'all of the major are allowed, one is denied later',
    [
      { allow: true, type: 'c', major: 195, minor: -1, access: 'rwm' },
      { allow: false, type: 'c', major: 195, minor: 0, access: 'rwm' },
    ],
    ['GPU-1'],
  ],
  ['rules of other devices say nothing', [{ allow: true, type: 'c', major: 1, minor: 3, access: 'rwm' }], []],
])('a node that the cgroup denies is none: %s', (_title, rules, expected) => {
  expect(visible({ nodeMinors: new Set([0, 1]), rules })).toEqual(expected);
});

test('a process that has ended has no nodes', () => {
  expect(nodeMinorsOf(0x7fffffff)).toEqual(new Set());
});
