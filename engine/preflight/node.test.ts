import { expect, test } from 'vitest';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import type { NodeFacts } from '../../core/contract/checkpoint.ts';
import { parseCpuinfo } from '../facts.ts';
import { type Finding, warningTexts } from '../../core/preflight.ts';
import { type LsmHere, lsmFindings, missingCpuFlags, nodeFindings, runcTooOld } from './node.ts';

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
  cpuVendor: 'GenuineIntel',
  signalFrameBytes: 3632,
};
const WAS: Metadata['node'] = { ...HERE, name: 'n0', cpuModel: 'old', cpuFlags: [...HERE.cpuFlags] };

test('the same kind of node takes the checkpoint', () => {
  expect(nodeFindings(WAS, HERE)).toEqual([]);
});

test.each<[string, Partial<NodeFacts>, Finding['code'], Finding['severity'], RegExp]>([
  ['another architecture', { arch: 'aarch64' }, 'arch', 'error', /taken on x86_64, n1 is aarch64/],
  [
    'a processor without an instruction set',
    { cpuFlags: ['fxsr', 'avx2'] },
    'cpu-features',
    'error',
    /lacks avx512f, which old had/,
  ],
  [
    'a processor of another vendor',
    { cpuVendor: 'AuthenticAMD' },
    'cpu-vendor',
    'warning',
    /of GenuineIntel, that of n1/,
  ],
  [
    'a smaller processor state',
    { signalFrameBytes: 1776 },
    'cpu-state',
    'error',
    /takes 1776 bytes .*, at the dump 3632/,
  ],
  [
    'a larger processor state',
    { signalFrameBytes: 11_952 },
    'cpu-state',
    'warning',
    /signal stack of the minimal size/,
  ],
  ['an older kernel', { kernel: '6.1.0-13-amd64' }, 'kernel', 'error', /kernel 6.1.0-13-amd64 is older than 6.18.44-x/],
  ['an older CRIU', { criuVersion: '4.1.1' }, 'criu', 'error', /CRIU 4.1.1 is older than 4.2.1/],
  ['another cgroup version', { cgroupVersion: 1 }, 'cgroup-version', 'error', /under cgroup v2, n1 has cgroup v1/],
])('%s is told', (_title, difference, code, severity, message) => {
  const findings = nodeFindings(WAS, { ...HERE, ...difference });

  expect(findings).toEqual([
    expect.objectContaining({ code, severity, message: expect.stringMatching(message) as string }),
  ]);
  expect(findings[0]?.remedy).not.toBe('');
});

test('what an old checkpoint does not record is told as such, and keeps it from nothing', () => {
  const { cpuVendor: _vendor, signalFrameBytes: _frame, ...old } = WAS;

  const findings = nodeFindings(old, HERE);

  expect(findings.map(({ code, severity, recorded }) => [code, severity, recorded])).toEqual([
    ['cpu-vendor', 'warning', 'not recorded'],
    ['cpu-state', 'warning', 'not recorded'],
  ]);
  expect(warningTexts(findings)).toEqual(['the checkpoint does not record cpu-vendor, cpu-state: not compared']);
});

type Security = NonNullable<Metadata['security']>;
const CONFINED: Security = { lsm: 'apparmor', label: 'cri-containerd.apparmor.d' };

test.each<[string, Metadata['security'], LsmHere, string[]]>([
  ['nothing for a process that nothing confined', { lsm: 'none', label: 'unconfined' }, { kind: 'selinux' }, []],
  ['nothing for an unconfined process', { lsm: 'apparmor', label: 'unconfined' }, { kind: 'none' }, []],
  ['nothing for a profile that is loaded', CONFINED, { kind: 'apparmor', profiles: new Set([CONFINED.label]) }, []],
  ['an error for one that is not', CONFINED, { kind: 'apparmor', profiles: new Set() }, ['error']],
  ['an error where there is no AppArmor', CONFINED, { kind: 'none' }, ['error']],
  ['a warning where profiles cannot be read', CONFINED, { kind: 'apparmor' }, ['warning']],
  ['a warning where it is not recorded', undefined, { kind: 'apparmor' }, ['warning']],
])('confinement gives %s', (_title, was, here, severities) => {
  const findings = lsmFindings(was, here);

  expect(findings.map(({ severity }) => severity)).toEqual(severities);
  expect(findings.every(({ code }) => code === 'lsm')).toBe(true);
});

test('all reasons are given at once', () => {
  expect(nodeFindings(WAS, { ...HERE, kernel: '5.4', criuVersion: '4.0', cgroupVersion: 1 })).toHaveLength(3);
});

test('a patch release less of kernel or CRIU is no reason', () => {
  expect(nodeFindings(WAS, { ...HERE, kernel: '6.18.1', criuVersion: '4.2' })).toEqual([]);
});

test('flags of mitigations and topology do not matter, on arm64 every flag does', () => {
  expect(missingCpuFlags(['fxsr', 'ibpb', 'pti', 'constant_tsc'], ['fxsr'])).toEqual([]);
  expect(missingCpuFlags(['fp', 'asimd', 'sve'], ['fp', 'asimd'])).toEqual(['sve']);
});

test.each([
  [
    'x86',
    'vendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\nflags\t\t: fpu fxsr avx2\n',
    { cpuVendor: 'AuthenticAMD', cpuModel: 'AMD EPYC', cpuFlags: ['fpu', 'fxsr', 'avx2'] },
  ],
  ['arm64', 'Features\t: fp asimd\nCPU part\t: 0xd0c\n', { cpuModel: '0xd0c', cpuFlags: ['fp', 'asimd'] }],
])('the processor of %s is read', (_title, text, expected) => {
  expect(parseCpuinfo(text)).toEqual(expected);
});

test.each([
  ['1.1.5', 1],
  ['1.2.9', 1],
  ['1.3.0', 0],
  ['1.5.2+dev', 0],
])('a runc %s of the node worker is a reason %i times', (version, times) => {
  const findings = runcTooOld(version);

  expect(findings).toHaveLength(times);
  expect(findings.every(({ severity, message }) => severity === 'error' && message.includes(version))).toBe(true);
});
