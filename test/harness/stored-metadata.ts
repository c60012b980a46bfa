import type { Metadata } from '../../core/checkpoint/metadata.ts';

/** What a checkpoint of a redis on node-a says of itself. */
export function metadataOf(id: string, createdAt: string, merkleRoot: string): Metadata {
  return {
    version: 1,
    checkpointId: id,
    createdAt,
    labels: { team: 'search' },
    container: { id: 'redis', namespace: 'default', runtime: 'io.containerd.runc.v2', labels: {} },
    node: {
      name: 'node-a',
      hostname: 'node-a',
      kernel: '6.18.0',
      arch: 'x86_64',
      cpuModel: 'a processor',
      cpuFlags: [],
      cgroupVersion: 1,
      criuVersion: '4.2.1',
      runcVersion: '1.5.2',
      containerdVersion: '2.4.2',
    },
    capture: {
      engine: 'runc',
      method: 'criu',
      tcp: 'keep',
      after: 'resume',
      criuOptions: [{ option: 'tcp-established', reason: '1 established connection' }],
      phases: { freezeMs: 41.3, totalMs: 400, unaccountedMs: 1, parts: {} },
    },
    processes: [{ hostPid: 4711, nsPid: 1, parentHostPid: 4700, command: 'redis-server', threads: 6 }],
    gpuProcesses: [],
    stdio: { terminal: false, stdin: 'null', stdout: 'file', stderr: 'file' },
    mounts: [{ destination: '/data', type: 'bind', source: '/srv/data', options: [], captured: false }],
    rootfs: { method: 'overlay', deletedFiles: 0 },
    sizes: { totalBytes: 13_841_203, imageBytes: 13_631_488, rootfsBytes: 209_715 },
    merkleRoot,
    warnings: [],
  };
}
