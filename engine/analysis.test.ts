import { closeSync, linkSync, mkdtempSync, openSync, rmSync, unlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { tryLockExclusive } from '../native/libc/flock.ts';
import type { UnixPeer } from '../native/net/unix-peers.ts';
import { readProcess } from '../native/proc/tree.ts';
import { surveyProcess } from './analysis-process.ts';
import { unixFindings } from './analysis-unix.ts';
import type { ProcessFacts } from './container-facts.ts';

function self(): ProcessFacts {
  const found = readProcess(process.pid);
  if (found === undefined) {
    throw new Error('this process is not in /proc');
  }
  return { ...found, entered: false };
}

test('an open file without a name is found, with the names that are left and its size', () => {
  const dir = mkdtempSync(join(tmpdir(), 'kybernate-analysis-'));
  writeFileSync(join(dir, 'ghost'), Buffer.alloc(8192, 1));
  writeFileSync(join(dir, 'linked'), 'x');
  linkSync(join(dir, 'linked'), join(dir, 'other'));
  const fds = [openSync(join(dir, 'ghost'), 'r'), openSync(join(dir, 'linked'), 'r')];
  unlinkSync(join(dir, 'ghost'));
  unlinkSync(join(dir, 'linked'));

  const { deletedFiles } = surveyProcess(self());

  const ours = deletedFiles.filter((file) => file.path.startsWith(dir));
  expect(ours).toEqual([
    { path: join(dir, 'ghost'), links: 0, bytes: expect.any(Number) },
    { path: join(dir, 'linked'), links: 1, bytes: expect.any(Number) },
  ]);
  fds.forEach(closeSync);
  rmSync(dir, { recursive: true });
});

test('a held lock counts', () => {
  const dir = mkdtempSync(join(tmpdir(), 'kybernate-analysis-'));
  writeFileSync(join(dir, 'lock'), '');
  const before = surveyProcess(self()).locks;
  const fd = openSync(join(dir, 'lock'), 'r');
  tryLockExclusive(fd);

  expect(surveyProcess(self()).locks).toBe(before + 1);
  closeSync(fd);
  rmSync(dir, { recursive: true });
});

test('a traced process is refused with the name of the tracer', () => {
  const { refusals } = surveyProcess({ ...self(), tracerPid: 77 });

  expect(refusals).toContainEqual(expect.stringMatching(/is traced by process 77.*detach the debugger/));
});

test('a process that has ended has nothing', () => {
  expect(surveyProcess({ ...self(), hostPid: 0x7fffffff })).toMatchObject({
    sockets: [],
    deletedFiles: [],
    locks: 0,
    usesGpu: false,
    refusals: [],
  });
});

const OURS = new Map([[10, { hostPid: 1, command: 'app', fd: 5 }]]);
const outside = (): { hostPid: number; command: string } => ({ hostPid: 7, command: 'journald' });
const stream = (inode: number, peerInode: number): UnixPeer => ({ type: 'stream', inode, peerInode });

test('a connection inside the container needs nothing', () => {
  const inside = new Map([...OURS, [11, { hostPid: 2, command: 'worker', fd: 6 }]]);

  expect(unixFindings(inside, [stream(10, 11), stream(11, 10)], { ownerOf: outside })).toEqual({ refusals: [] });
});

test('an end that nobody holds lies in a queue and needs nothing', () => {
  expect(unixFindings(OURS, [stream(10, 11), stream(11, 10)], { ownerOf: () => undefined })).toEqual({ refusals: [] });
});

test('datagrams to a named socket outside need ext-unix-sk', () => {
  const peers: UnixPeer[] = [
    { type: 'datagram', inode: 10, peerInode: 20 },
    { type: 'datagram', inode: 20, peerInode: 0, path: '/dev/log' },
  ];

  const findings = unixFindings(OURS, peers, { ownerOf: outside });

  expect(findings.refusals).toEqual([]);
  expect(findings.externalDatagram).toMatch(/app.*\/dev\/log.*journald/);
});

test.each<[string, UnixPeer[]]>([
  ['a stream connection to the outside', [stream(10, 20), stream(20, 10)]],
  ['a connection into another network namespace', [{ type: 'datagram', inode: 10, peerInode: 20 }]],
])('%s is refused and names both ends', (_title, peers) => {
  expect(unixFindings(OURS, peers, { ownerOf: outside }).refusals).toEqual([
    expect.stringMatching(/process 1 \(app\).*\(descriptor 5\).*process 7 \(journald\)/),
  ]);
});
