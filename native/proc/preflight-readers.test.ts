import { expect, test } from 'vitest';
import { AT_MINSIGSTKSZ, auxiliaryValue, parseAuxiliary } from './auxiliary.ts';
import { parseHugePages } from './huge-pages.ts';
import { stateIn } from './network-here.ts';
import { pathFacts } from './path-facts.ts';
import { parseSecurityLabel } from './security.ts';

test('an auxiliary value is found by its type', () => {
  const words = new BigUint64Array([33n, 7n, 51n, 3632n, 0n, 0n]);

  expect(parseAuxiliary(Buffer.from(words.buffer), AT_MINSIGSTKSZ)).toBe(3632);
  expect(parseAuxiliary(Buffer.from(words.buffer), 52)).toBeUndefined();
  expect(auxiliaryValue(AT_MINSIGSTKSZ)).toBeGreaterThan(1000);
});

test.each([
  ['cri-containerd.apparmor.d (enforce)\n', 'cri-containerd.apparmor.d'],
  ['unconfined\n', 'unconfined'],
  ['system_u:system_r:container_t:s0:c1,c2\0', 'system_u:system_r:container_t:s0:c1,c2'],
  ['', 'unconfined'],
])('the label in %j is %s', (text, label) => {
  expect(parseSecurityLabel(text)).toBe(label);
});

test('huge pages are summed by the size of a page', () => {
  const mapping = (size: number, page: number, flags: string): string =>
    `7f00-7f10 rw-p 0 00:0f 1 /anon_hugepage (deleted)\nSize: ${size} kB\nKernelPageSize: ${page} kB\nVmFlags: rd ${flags}\n`;
  const smaps =
    mapping(4096, 2048, 'ht') + mapping(2048, 2048, 'ht') + mapping(8, 4, 'mr') + mapping(1048576, 1048576, 'ht');

  expect(parseHugePages(smaps)).toEqual([
    { pageBytes: 2048 * 1024, bytes: 6144 * 1024 },
    { pageBytes: 1024 ** 3, bytes: 1024 ** 3 },
  ]);
});

test('addresses and listening sockets of a network namespace are read', () => {
  const state = stateIn({
    tcp: 'sl\n 0: 0100007F:1F90 00000000:0000 0A 0:0 00:0 0 0 0 11\n 1: 0500000A:0050 0600000A:C000 01 0:0 00:0 0 0 0 12\n',
    tcp6: '',
    fib_trie:
      'Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.0\n        /24 link UNICAST\n     |-- 10.0.0.5\n        /32 host LOCAL\n',
    if_inet6: 'fe80000000000000021122fffe334455 02 40 20 80     eth0\n',
  });

  expect(state.listening).toEqual([{ address: '127.0.0.1', port: 8080 }]);
  expect([...state.addresses]).toEqual(['10.0.0.5', 'fe80::211:22ff:fe33:4455']);
});

test('what lies at a path is told by kind and file system', () => {
  expect(pathFacts('/proc/self/status')).toEqual({ kind: 'file', fileSystem: 'proc' });
  expect(pathFacts('/dev/null')?.kind).toBe('character device');
  expect(pathFacts('/no/such/path')).toBeUndefined();
});
