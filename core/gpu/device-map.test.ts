import { describe, expect, it } from 'vitest';
import { type CapturedGpu, type DeviceMapInput, type TargetGpu, driverPairs, mapDevices } from './device-map.ts';

const GIB = 1024 ** 3;

function captured(uuid: string, more: Partial<CapturedGpu> = {}): CapturedGpu {
  return { uuid, name: 'H100', memoryTotalBytes: 80 * GIB, computeCapability: '9.0', usedBytes: 8 * GIB, ...more };
}

function target(uuid: string, more: Partial<TargetGpu> = {}): TargetGpu {
  return {
    uuid,
    name: 'H100',
    memoryTotalBytes: 80 * GIB,
    memoryFreeBytes: 79 * GIB,
    computeCapability: '9.0',
    mig: false,
    ...more,
  };
}

function input(more: Partial<DeviceMapInput>): DeviceMapInput {
  return { captured: [captured('A')], visible: [['A']], wanted: [], target: [target('A')], ...more };
}

const arrows = (map: DeviceMapInput): string[] => mapDevices(map).pairs.map(({ from, to }) => `${from}>${to}`);

describe('mapDevices', () => {
  it.each<[string, Partial<DeviceMapInput>, string[]]>([
    ['a device that the target has keeps its place', { target: [target('B'), target('A')] }, ['A>A']],
    ['another of the same model takes over', { target: [target('B')] }, ['A>B']],
    [
      'the emptiest of the same model takes over',
      { target: [target('B', { memoryFreeBytes: 9 * GIB }), target('C'), target('D', { memoryFreeBytes: 10 * GIB })] },
      ['A>C'],
    ],
    [
      'other models are passed over',
      {
        target: [
          target('B', { name: 'H200' }),
          target('C', { computeCapability: '8.0' }),
          target('D', { memoryFreeBytes: 8 * GIB }),
        ],
      },
      ['A>D'],
    ],
    [
      'what was asked for comes first',
      { wanted: [{ from: 'A', to: 'B' }], target: [target('A'), target('B')] },
      ['A>B'],
    ],
    [
      'the other one of a pair moves out of the way',
      {
        captured: [captured('A'), captured('B')],
        visible: [['A', 'B']],
        wanted: [{ from: 'A', to: 'B' }],
        target: [target('A'), target('B')],
      },
      ['A>B', 'B>A'],
    ],
    [
      'the greediest gets the emptiest, whichever comes first',
      {
        captured: [captured('A', { usedBytes: GIB }), captured('B', { usedBytes: 70 * GIB })],
        visible: [['A'], ['B']],
        target: [target('C', { memoryFreeBytes: 72 * GIB }), target('D', { memoryFreeBytes: 71 * GIB })],
      },
      ['A>D', 'B>C'],
    ],
    [
      'who finds its own device taken moves to another',
      { target: [target('A', { memoryFreeBytes: GIB }), target('B')] },
      ['A>B'],
    ],
    [
      'one that holds nothing makes room for one that cannot stay',
      {
        captured: [captured('A'), captured('B', { usedBytes: 0 })],
        visible: [['A', 'B']],
        target: [target('A', { memoryFreeBytes: GIB }), target('B')],
      },
      ['A>B', 'B>A'],
    ],
    [
      'only devices that the container was given count',
      { target: [target('A'), target('B')], allowed: new Set(['B']) },
      ['A>B'],
    ],
    [
      'a GPU without VRAM of ours needs no room',
      { captured: [captured('A', { usedBytes: 0 })], target: [target('A', { memoryFreeBytes: 0 })] },
      ['A>A'],
    ],
    ['no GPU needs no place', { captured: [], visible: [[]], target: [] }, []],
  ])('%s', (_title, more, expected) => {
    expect(mapDevices(input(more)).reasons).toEqual([]);
    expect(arrows(input(more))).toEqual(expected);
  });

  it.each<[string, Partial<DeviceMapInput>, RegExp]>([
    ['too few GPUs', { captured: [captured('A'), captured('B')] }, /place of B .*as many GPUs as were visible/],
    ['no GPU at all', { target: [] }, /place of A .*none is left/],
    ['another model', { target: [target('B', { name: 'L4' })] }, /B is L4 .*needs H100/],
    [
      'too little free memory',
      { target: [target('A', { memoryFreeBytes: GIB })] },
      /A has 1073741824 bytes free, 8589934592/,
    ],
    ['less than no free memory', { target: [target('A', { memoryFreeBytes: -5 })] }, /A has 0 bytes free/],
    [
      'a smaller device',
      { target: [target('A', { memoryTotalBytes: 40 * GIB })] },
      /A has 42949672960 bytes of memory/,
    ],
    ['MIG', { target: [target('A', { mig: true })] }, /A is divided by MIG/],
    [
      'a wish for a GPU of another checkpoint',
      { wanted: [{ from: 'X', to: 'A' }] },
      /checkpoint has no GPU X \(it has A\)/,
    ],
    ['a wish for a GPU of another node', { wanted: [{ from: 'A', to: 'X' }] }, /node has no GPU X \(it has A\)/],
    [
      'a wish for a GPU of another pod',
      { wanted: [{ from: 'A', to: 'B' }], target: [target('A'), target('B')], allowed: new Set(['A']) },
      /not given GPU B/,
    ],
    [
      'one GPU twice',
      {
        wanted: [
          { from: 'A', to: 'A' },
          { from: 'A', to: 'B' },
        ],
        target: [target('A'), target('B')],
      },
      /A is named twice/,
    ],
    [
      'two in one place',
      {
        captured: [captured('A'), captured('B')],
        wanted: [
          { from: 'A', to: 'B' },
          { from: 'B', to: 'B' },
        ],
        target: [target('A'), target('B')],
      },
      /B cannot take two places/,
    ],
    [
      'a wish for another model',
      { wanted: [{ from: 'A', to: 'B' }], target: [target('A'), target('B', { name: 'L4' })] },
      /B is L4/,
    ],
    ['a GPU that the checkpoint does not describe', { visible: [['A', 'Z']] }, /does not describe GPU Z/],
  ])('%s is a reason', (_title, more, reason) => {
    expect(mapDevices(input(more)).reasons.join('; ')).toMatch(reason);
  });

  it('gives every reason at once', () => {
    const { reasons } = mapDevices(
      input({ target: [target('A', { mig: true, memoryFreeBytes: 0, memoryTotalBytes: GIB, name: 'L4' })] }),
    );

    expect(reasons.join()).toMatch(/MIG.*is L4.*bytes of memory.*bytes free/);
  });
});

describe('driverPairs', () => {
  const map = [
    { from: 'A', to: 'A' },
    { from: 'B', to: 'C' },
  ];

  it('names every GPU of the process when one of them moves', () => {
    expect(driverPairs(map, ['A', 'B'])).toEqual(map);
  });

  it('names none when all that the process could see keep their places', () => {
    expect(driverPairs(map, ['A'])).toEqual([]);
  });
});
