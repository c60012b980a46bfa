import { closeSync, constants, mkdtempSync, openSync, rmSync, unlinkSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { tryLockExclusive } from '../libc/flock.ts';
import { fdKind, openFds } from './fds.ts';
import { tcpSockets } from './sockets.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-fds-'));
});
afterEach(() => {
  rmSync(dir, { recursive: true });
});

test.each([
  ['socket:[12]', 'socket'],
  ['pipe:[12]', 'pipe'],
  ['anon_inode:[eventpoll]', 'anon'],
  ['anon_inode:inotify', 'anon'],
  ['/memfd:x (deleted)', 'memfd'],
  ['/dev/null', 'device'],
  ['/dev/pts/0', 'device'],
  ['/dev/shm/x', 'file'],
  ['/var/log/x', 'file'],
  ['/var/log/x (deleted)', 'deleted'],
  ['mnt:[4026531840]', 'other'],
])('%s is of kind %s', (target, kind) => {
  expect(fdKind(target)).toBe(kind);
});

test('open files are found with their flags, a deleted one as such, a lock with its count', () => {
  const file = join(dir, 'file');
  writeFileSync(file, '');
  const kept = openSync(file, 'r');
  const doomed = openSync(join(dir, 'doomed'), 'a');
  unlinkSync(join(dir, 'doomed'));
  tryLockExclusive(kept);

  const fds = new Map(openFds(process.pid).map((open) => [open.fd, open]));

  expect(fds.get(kept)).toMatchObject({ kind: 'file', target: file, locks: 1 });
  expect(fds.get(doomed)).toMatchObject({ kind: 'deleted', target: `${join(dir, 'doomed')} (deleted)`, locks: 0 });
  expect((fds.get(doomed)?.flags ?? 0) & constants.O_APPEND).toBe(constants.O_APPEND);
  closeSync(kept);
  closeSync(doomed);
});

test('a listening socket is found in the table by the inode of its descriptor', async () => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;

  const socket = tcpSockets(process.pid).find((candidate) => candidate.local.port === port);

  expect(socket).toMatchObject({ family: 4, state: 'listen', local: { address: '127.0.0.1' } });
  expect(openFds(process.pid).some((open) => open.inode === socket?.inode)).toBe(true);
  server.close();
});

test('a process that does not exist has none', () => {
  expect(openFds(0x7fffffff)).toEqual([]);
});
