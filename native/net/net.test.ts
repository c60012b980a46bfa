import { once } from 'node:events';
import { connect, createServer, type AddressInfo } from 'node:net';
import { describe, expect, test } from 'vitest';
import type { Run, RunResult } from '../run/run.ts';
import { criuTableName, deleteTable, dropsPackets, holdRules, isCriuTable, listTables } from './nft.ts';
import { ownedSockets } from './socket-kinds.ts';
import { socketsInRepair } from './tcp-repair.ts';
import { parseSs } from './unix-peers.ts';

function answering(result: Partial<RunResult>): Run {
  return () =>
    Promise.resolve({
      timedOut: false,
      cancelled: false,
      forceKilled: false,
      durationMs: 1,
      stdout: '',
      stderr: '',
      exitCode: 0,
      ...result,
    });
}

test('the table of a CRIU run has its name cut as CRIU cuts it', () => {
  expect(criuTableName('88d04616-dcf2-4257-95d0-d6d26cd9eea8')).toBe('CRIU-88d04616-dcf2-4257-95');
  expect(isCriuTable({ family: 'inet', name: 'CRIU-88d04616-dcf2-4257-95' })).toBe(true);
  expect(isCriuTable({ family: 'ip', name: 'filter' })).toBe(false);
});

test('tables are listed from the answer of nft', async () => {
  const stdout = JSON.stringify({
    nftables: [{ metainfo: { version: '1' } }, { table: { family: 'inet', name: 'CRIU-1', handle: 1 } }],
  });

  expect(await listTables(answering({ stdout }), 1)).toEqual([{ family: 'inet', name: 'CRIU-1' }]);
});

describe('a table of CRIU', () => {
  const conns = (elem?: unknown[]): object => ({ set: { name: 'conns4', ...(elem === undefined ? {} : { elem }) } });
  const chain = (policy: string): object => ({ chain: { name: 'output', policy } });
  const rule = (...expr: object[]): object => ({ rule: { chain: 'output', expr } });
  const named = { match: { op: '==', left: { concat: [] }, right: '@conns4' } };
  const marked = rule({ match: { op: '==', left: { meta: { key: 'mark' } }, right: 49_428 } }, { accept: null });
  const drop = { drop: null };

  test.each([
    ['nothing: its sets are empty', [conns(), chain('accept'), marked, rule(named, drop)], false],
    ['nothing: it has no rules', [chain('accept')], false],
    ['the connections that it names', [conns([{ concat: [] }]), chain('accept'), marked, rule(named, drop)], true],
    ['everything, by its policy', [conns(), chain('drop'), marked], true],
    ['everything, by a rule', [conns(), chain('accept'), marked, rule(drop)], true],
    ['all but what an empty set names', [conns(), rule({ match: { ...named.match, op: '!=' } }, drop)], true],
    ['what a set of another table may name', [rule(named, drop)], true],
  ])('drops %s', async (_what, nftables, drops) => {
    const run = answering({ stdout: JSON.stringify({ nftables }) });

    expect(await dropsPackets(run, 1, { family: 'inet', name: 'CRIU-1' })).toBe(drops);
  });

  test('that is gone drops nothing', async () => {
    const run = answering({ exitCode: 1, stderr: 'Error: No such file or directory' });

    expect(await dropsPackets(run, 1, { family: 'inet', name: 'CRIU-1' })).toBe(false);
  });
});

test('a namespace or a table that is gone is success', async () => {
  const namespaceGone = answering({
    exitCode: 1,
    stderr: 'nsenter: cannot open /proc/9/ns/net: No such file or directory',
  });
  const tableGone = answering({ exitCode: 1, stderr: 'Error: Could not process rule: No such file or directory' });

  expect(await listTables(namespaceGone, 9)).toEqual([]);
  await expect(deleteTable(tableGone, 9, { family: 'inet', name: 'x' })).resolves.toBeUndefined();
});

test('a missing nft is not taken for a missing table', async () => {
  const missing = answering({ exitCode: 127, stderr: 'nsenter: failed to execute nft: No such file or directory' });

  await expect(listTables(missing, 9)).rejects.toThrow(/nft or nsenter is not installed/);
});

test('held connections are dropped both ways, by family, each once', () => {
  const rules = holdRules('kybernate-1', [
    { local: { address: '10.0.0.1', port: 80 }, remote: { address: '10.0.0.2', port: 5000 } },
    { local: { address: '10.0.0.1', port: 80 }, remote: { address: '10.0.0.2', port: 5000 } },
    { local: { address: 'fd00::1', port: 80 }, remote: { address: 'fd00::2', port: 5001 } },
  ]);

  expect(rules).toContain('elements = { 10.0.0.1 . 80 . 10.0.0.2 . 5000, 10.0.0.2 . 5000 . 10.0.0.1 . 80 };');
  expect(rules).toContain('elements = { fd00::1 . 80 . fd00::2 . 5001, fd00::2 . 5001 . fd00::1 . 80 };');
  expect(rules.match(/@conns4 drop/g)).toHaveLength(2);
});

test('the output of ss gives inodes, peers and names', () => {
  const text = `u_str ESTAB  0      0                       * 196254            * 196255
u_str LISTEN 0      4096   /run/some socket 74804             * 0     
u_dgr ESTAB  0      0                       * 17       /dev/log 18
`;

  expect(parseSs(text)).toEqual([
    { type: 'stream', inode: 196254, peerInode: 196255 },
    { type: 'stream', inode: 74804, peerInode: 0, path: '/run/some socket' },
    { type: 'datagram', inode: 17, peerInode: 18 },
  ]);
});

test('sockets of a process are known by kind, and none of an ordinary one is in repair', async () => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const client = connect((server.address() as AddressInfo).port, '127.0.0.1');
  await once(client, 'connect');

  const names = ownedSockets(process.pid).map((socket) => socket.name);

  expect(names.filter((name) => name === 'tcp').length).toBeGreaterThanOrEqual(3);
  expect(names).not.toContain('other');
  expect(socketsInRepair(process.pid)).toEqual([]);
  client.destroy();
  server.close();
});
