import { expect, test } from 'vitest';
import { parseMountinfo } from '../../native/proc/mounts.ts';
import { hookMounts } from './hook-mounts.ts';

const HOST = parseMountinfo(`
20 1 8:1 / / rw - ext4 /dev/sda1 rw
21 20 0:5 / /dev rw - devtmpfs udev rw
22 20 0:4 / /proc rw - proc proc rw
23 20 0:21 / /run rw - tmpfs tmpfs rw
`);
const CONTAINER = parseMountinfo(`
100 90 0:50 / / rw - overlay overlay rw
101 100 0:51 / /proc rw - proc proc rw
102 100 0:52 / /dev rw - tmpfs tmpfs rw
103 101 0:53 / /proc/driver/nvidia rw - tmpfs tmpfs rw
104 103 0:4 /driver/nvidia/gpus/0000:18:00.0 /proc/driver/nvidia/gpus/0000:18:00.0 ro - proc proc rw
105 102 0:5 /nvidia0 /dev/nvidia0 ro - devtmpfs udev rw
106 100 8:1 /usr/lib/libcuda.so.580.1 /usr/lib/libcuda.so.580.1 ro - ext4 /dev/sda1 rw
107 100 0:21 /nvidia-persistenced/socket /run/nvidia-persistenced/socket ro - tmpfs tmpfs rw
108 100 8:1 /srv/hosts /etc/hosts rw - ext4 /dev/sda1 rw
109 101 0:5 /null /proc/kcore rw - devtmpfs udev rw
110 100 8:1 /opt/nvidia /usr/local/nvidia ro - ext4 /dev/sda1 rw
`);
const SPEC = { mounts: [{ destination: '/usr/local/nvidia/' }], linux: { maskedPaths: ['/proc/kcore'] } };

test('finds what the hook bound, with its path on the node, and nothing that the specification or CRIU knows', () => {
  expect(hookMounts(SPEC, CONTAINER, HOST)).toEqual({
    mounts: [
      {
        destination: '/proc/driver/nvidia/gpus/0000:18:00.0',
        source: '/proc/driver/nvidia/gpus/0000:18:00.0',
      },
      { destination: '/dev/nvidia0', source: '/dev/nvidia0' },
      { destination: '/usr/lib/libcuda.so.580.1', source: '/usr/lib/libcuda.so.580.1' },
      { destination: '/run/nvidia-persistenced/socket', source: '/run/nvidia-persistenced/socket' },
    ],
    refusals: [],
  });
});

test('finds the path where the node sees a part of a file system alone', () => {
  const host = parseMountinfo('20 1 8:1 /usr /host/usr rw - ext4 /dev/sda1 rw\n');
  const mounts = CONTAINER.filter(({ mountPoint }) => mountPoint.includes('libcuda'));

  expect(hookMounts(SPEC, mounts, host).mounts.map(({ source }) => source)).toEqual(['/host/usr/lib/libcuda.so.580.1']);
});

test.each([
  ['no path on the node', '1 1 9:9 /x /dev/nvidia7 ro - ext4 /dev/sdb rw\n', /\/dev\/nvidia7.* has no path/],
  [
    'a name with a blank',
    String.raw`1 1 8:1 /x\040y /opt/nvidia\0401 ro - ext4 /dev/sda1 rw`,
    /cannot be told to CRIU/,
  ],
])('refuses a mount with %s', (_title, text, why) => {
  const { mounts, refusals } = hookMounts(SPEC, parseMountinfo(text), HOST);

  expect(mounts).toEqual([]);
  expect(refusals.join()).toMatch(why);
});
