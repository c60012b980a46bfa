import { expect, test } from 'vitest';
import { dumpableBytes, parseMaps, readMaps } from './maps.ts';

test('mappings are read with their sharing, names and deletion', () => {
  const text = `00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/dbus daemon
7f0000000000-7f0000001000 rw-s 00000000 00:01 99                         /dev/zero (deleted)
7f0000002000-7f0000003000 rw-p 00000000 00:00 0 
7ffff7fc1000-7ffff7fc5000 r--p 00000000 00:00 0                          [vvar]
`;

  expect(parseMaps(text)).toEqual([
    {
      range: '00400000-00452000',
      shared: false,
      device: '08:02',
      inode: 173521,
      path: '/usr/bin/dbus daemon',
      deleted: false,
    },
    { range: '7f0000000000-7f0000001000', shared: true, device: '00:01', inode: 99, path: '/dev/zero', deleted: true },
    { range: '7f0000002000-7f0000003000', shared: false, device: '00:00', inode: 0, path: '', deleted: false },
    { range: '7ffff7fc1000-7ffff7fc5000', shared: false, device: '00:00', inode: 0, path: '[vvar]', deleted: false },
  ]);
});

test('this process maps its own program and has memory to dump', () => {
  expect(readMaps(process.pid).some((mapping) => mapping.path === process.execPath)).toBe(true);
  expect(dumpableBytes(process.pid)).toBeGreaterThan(1024 * 1024);
});

test('a process that does not exist has neither', () => {
  expect(readMaps(0x7fffffff)).toEqual([]);
  expect(dumpableBytes(0x7fffffff)).toBe(0);
});
