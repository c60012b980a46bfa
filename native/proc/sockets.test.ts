import { expect, test } from 'vitest';
import { parseAddress, parseTcpTable } from './sockets.ts';

test.each([
  ['0100007F', '127.0.0.1'],
  ['0A01A8C0', '192.168.1.10'],
  ['00000000', '0.0.0.0'],
  ['00000000000000000000000001000000', '::1'],
  ['00000000000000000000000000000000', '::'],
  ['0000000000000000FFFF00000100007F', '127.0.0.1'],
  ['B80D0120000000000000000001000000', '2001:db8::1'],
  ['000080FE00000000FF57B2C500FEA3D2', 'fe80::c5b2:57ff:d2a3:fe00'],
])('the address %s is %s', (hex, address) => {
  expect(parseAddress(hex)).toBe(address);
});

const TCP = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 5001 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1F90 0200007F:D431 01 00000000:00000000 02:000A0000 00000000     0        0 5002 2 0000000000000000 20 4 30 10 -1
   2: 0100007F:D431 0200007F:1F90 06 00000000:00000000 03:00001770 00000000     0        0 0 3 0000000000000000
`;

test('a TCP table is read with states, both ends and owners', () => {
  expect(parseTcpTable(TCP)).toEqual([
    {
      family: 4,
      local: { address: '127.0.0.1', port: 8080 },
      remote: { address: '0.0.0.0', port: 0 },
      state: 'listen',
      inode: 5001,
    },
    {
      family: 4,
      local: { address: '127.0.0.1', port: 8080 },
      remote: { address: '127.0.0.2', port: 54321 },
      state: 'established',
      inode: 5002,
    },
    {
      family: 4,
      local: { address: '127.0.0.1', port: 54321 },
      remote: { address: '127.0.0.2', port: 8080 },
      state: 'time-wait',
      inode: 0,
    },
  ]);
});
