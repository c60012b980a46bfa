import { expect, test } from 'vitest';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import { sampleMetadata } from '../../test/harness/checkpoint-dir.ts';
import {
  mountFindings,
  networkFindings,
  pidFindings,
  roomFindings,
  type RoomHere,
  type SourceHere,
} from './resources.ts';

const { capture } = sampleMetadata('ck', { merkleRoot: '', totalBytes: 0 });
const SERVER: Metadata['capture'] = {
  ...capture,
  tcpPorts: [80],
  listening: [{ address: '0.0.0.0', port: 80 }],
  connectedAddresses: ['10.0.0.5'],
};
const NETWORK = { name: "the host's network", listening: [], addresses: new Set(['10.0.0.5', '127.0.0.1']) };

const told = (findings: ReadonlyArray<{ code: string; severity: string }>): string[] =>
  findings.map(({ code, severity }) => `${code} ${severity}`);

test.each<[string, Metadata['capture'], 'keep' | 'close', Partial<typeof NETWORK> | object, string[]]>([
  ['nothing where address and port are free', SERVER, 'keep', {}, []],
  [
    'a port that another address of the wildcard takes',
    SERVER,
    'close',
    { listening: [{ address: '10.0.0.5', port: 80 }] },
    ['ports error'],
  ],
  ['no port that another one takes', SERVER, 'close', { listening: [{ address: '0.0.0.0', port: 81 }] }, []],
  ['an address that a kept connection misses', SERVER, 'keep', { addresses: new Set() }, ['addresses error']],
  ['no address for connections that are closed', SERVER, 'close', { addresses: new Set() }, []],
  ['no address for a dump with closed connections', { ...SERVER, tcp: 'close' }, 'keep', { addresses: new Set() }, []],
  [
    'an address that a listening socket misses',
    { ...SERVER, listening: [{ address: '10.9.9.9', port: 1 }] },
    'close',
    {},
    ['addresses error'],
  ],
  ['nothing for a loopback address', { ...SERVER, listening: [{ address: '127.0.0.2', port: 1 }] }, 'close', {}, []],
  [
    'that an old checkpoint with TCP sockets does not say',
    { ...capture, tcpPorts: [80] },
    'keep',
    {},
    ['ports warning'],
  ],
  ['nothing of an old checkpoint without TCP sockets', capture, 'keep', {}, []],
])('the network gives %s', (_title, was, tcp, here, expected) => {
  expect(told(networkFindings(was, tcp, { ...NETWORK, ...here }))).toEqual(expected);
});

test('a pid that is taken, and one above the limit, are told each', () => {
  const taken = [{ id: 8, hostPid: 4711, command: 'nginx' }];

  expect(pidFindings([7, 8, 40_000], { taken, pidMax: 32_768 }).map(({ message }) => message)).toEqual([
    'pid 8 is taken by nginx (4711 on the node)',
    'pid 40000 is above the limit of this node',
  ]);
});

const MIB = 1024 ** 2;
const ROOM: RoomHere = {
  disk: { dir: '/d', freeBytes: 100 * MIB, neededBytes: 0 },
  memoryBytes: 100 * MIB,
  swapBytes: 0,
  hugePages: new Map([[2 * MIB, 10 * MIB]]),
};
const HUGE = { hugePages: [{ pageBytes: 2 * MIB, bytes: 12 * MIB }] };

test.each<[string, Pick<Metadata['capture'], 'hugePages'>, Partial<RoomHere>, string[]]>([
  ['nothing where there is room', { hugePages: [] }, {}, []],
  ['a full disk', { hugePages: [] }, { disk: { ...ROOM.disk, neededBytes: 101 * MIB } }, ['disk error']],
  ['too little memory', { hugePages: [] }, { memoryBytes: 79 * MIB }, ['memory error']],
  ['memory that swap makes up for', { hugePages: [] }, { memoryBytes: 79 * MIB, swapBytes: MIB }, ['memory warning']],
  ['too few huge pages', HUGE, {}, ['huge-pages error']],
  ['huge pages of another size', HUGE, { hugePages: new Map([[1024 * MIB, 4096 * MIB]]) }, ['huge-pages error']],
  ['that huge pages are not recorded', {}, {}, ['huge-pages warning']],
  [
    'all that is missing at once',
    HUGE,
    { disk: { ...ROOM.disk, freeBytes: 0, neededBytes: 1 }, memoryBytes: 0 },
    ['disk error', 'memory error', 'huge-pages error'],
  ],
])('room gives %s', (_title, was, here, expected) => {
  expect(told(roomFindings(was, 80 * MIB, { ...ROOM, ...here }))).toEqual(expected);
});

type Mount = Metadata['mounts'][number];
const BOUND: Mount = {
  destination: '/data',
  type: 'bind',
  source: '/srv/data',
  options: ['rbind'],
  captured: false,
  sourceKind: 'directory',
  sourceFileSystem: 'ext4',
};
const TMPFS: Mount = { destination: '/tmp', type: 'tmpfs', source: 'tmpfs', options: [], captured: true };

test.each<[string, Partial<Mount>, SourceHere | undefined, string[]]>([
  ['nothing for the same', {}, { kind: 'directory', fileSystem: 'ext4' }, []],
  ['nothing for a source that is missing, which the plan tells', {}, undefined, []],
  ['a file for a directory', {}, { kind: 'file', fileSystem: 'ext4' }, ['mounts error']],
  ['another file system', {}, { kind: 'directory', fileSystem: 'nfs' }, ['mounts warning']],
  ['nothing for a source that was removed before', { sourceKind: 'absent' }, { kind: 'file' }, []],
])('a bind mount gives %s', (_title, was, here, expected) => {
  expect(told(mountFindings([{ ...BOUND, ...was }, TMPFS], () => here, new Set(['tmpfs'])))).toEqual(expected);
});

test('a bind mount of an old checkpoint gives that its source is not recorded', () => {
  const { sourceKind: _kind, sourceFileSystem: _type, ...old } = BOUND;

  expect(told(mountFindings([old], () => ({ kind: 'file' }), new Set()))).toEqual(['mounts warning']);
});

test('a file system that the kernel lacks is told once', () => {
  expect(told(mountFindings([TMPFS, TMPFS], () => undefined, new Set()))).toEqual(['file-systems error']);
});
