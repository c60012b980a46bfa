import { expect, test } from 'vitest';
import { criuRpcOptions } from './criu-options.ts';

const CHOSEN = [
  'manage-cgroups-mode ignore',
  'tcp-established',
  'tcp-skip-in-flight',
  'network-lock nftables',
  'ghost-limit 4096',
  'irmap-scan-path /a',
  'irmap-scan-path /b',
  'ext-unix-sk',
  'shell-job',
  'file-locks',
];

test('what was chosen for a dump becomes fields of its RPC', () => {
  expect(criuRpcOptions(CHOSEN, 'dump')).toEqual({
    manageCgroups: true,
    manageCgroupsMode: 'IGNORE',
    tcpEstablished: true,
    tcpSkipInFlight: true,
    networkLock: 'NFTABLES',
    ghostLimit: 4096,
    irmapScanPaths: ['/a', '/b'],
    extUnixSk: true,
    shellJob: true,
    fileLocks: true,
  });
});

test('a restore is told what a restore knows', () => {
  expect(criuRpcOptions(CHOSEN, 'restore')).toEqual({
    manageCgroups: true,
    manageCgroupsMode: 'IGNORE',
    tcpEstablished: true,
    extUnixSk: true,
    shellJob: true,
    fileLocks: true,
  });
});
