import { expect, test } from 'vitest';
import type { Metadata } from '../core/checkpoint/metadata.ts';
import type { NodeFacts } from '../core/contract/checkpoint.ts';
import { parseCpuinfo } from './facts.ts';
import { missingCpuFlags, nodeReasons } from './preflight.ts';

const HERE: NodeFacts = {
  node: 'n1',
  hostname: 'n1',
  kernel: '6.18.44-x',
  arch: 'x86_64',
  cpuModel: 'new',
  cpuFlags: ['fxsr', 'avx2', 'avx512f', 'ibpb'],
  cgroupVersion: 2,
  criuVersion: '4.2.1',
  runcVersion: '1.5.2',
  containerdVersion: '2.4.2',
};
const WAS: Metadata['node'] = { ...HERE, name: 'n0', cpuModel: 'old', cpuFlags: [...HERE.cpuFlags] };

test('the same kind of node takes the checkpoint', () => {
  expect(nodeReasons(WAS, HERE)).toEqual([]);
});

test.each<[string, Partial<NodeFacts>, RegExp]>([
  ['another architecture', { arch: 'aarch64' }, /taken on x86_64, n1 is aarch64/],
  ['a processor without an instruction set', { cpuFlags: ['fxsr', 'avx2'] }, /lacks avx512f, which old had/],
  ['an older kernel', { kernel: '6.1.0-13-amd64' }, /kernel 6.1.0-13-amd64 is older than 6.18.44-x/],
  ['an older CRIU', { criuVersion: '4.1.1' }, /CRIU 4.1.1 is older than 4.2.1/],
  ['another cgroup version', { cgroupVersion: 1 }, /under cgroup v2, n1 has cgroup v1/],
])('%s is a reason', (_title, difference, reason) => {
  expect(nodeReasons(WAS, { ...HERE, ...difference })).toEqual([expect.stringMatching(reason)]);
});

test('all reasons are given at once', () => {
  expect(nodeReasons(WAS, { ...HERE, kernel: '5.4', criuVersion: '4.0', cgroupVersion: 1 })).toHaveLength(3);
});

test('a patch release less of kernel or CRIU is no reason', () => {
  expect(nodeReasons(WAS, { ...HERE, kernel: '6.18.1', criuVersion: '4.2' })).toEqual([]);
});

test('flags of mitigations and topology do not matter, on arm64 every flag does', () => {
  expect(missingCpuFlags(['fxsr', 'ibpb', 'pti', 'constant_tsc'], ['fxsr'])).toEqual([]);
  expect(missingCpuFlags(['fp', 'asimd', 'sve'], ['fp', 'asimd'])).toEqual(['sve']);
});

test.each([
  [
    'x86',
    'model name\t: AMD EPYC\nflags\t\t: fpu fxsr avx2\n',
    { cpuModel: 'AMD EPYC', cpuFlags: ['fpu', 'fxsr', 'avx2'] },
  ],
  ['arm64', 'Features\t: fp asimd\nCPU part\t: 0xd0c\n', { cpuModel: '0xd0c', cpuFlags: ['fp', 'asimd'] }],
])('the processor of %s is read', (_title, text, expected) => {
  expect(parseCpuinfo(text)).toEqual(expected);
});
