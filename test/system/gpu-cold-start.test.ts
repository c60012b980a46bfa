/*
 * A container that asks for GPUs and brings no driver, under our runtime: a driver made of files in a directory, devices
 * with its numbers that nobody serves, real containerd, shim, wrapper, runc, CRIU and workflows.
 */
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { shimDirOf } from '../../cli/dev/shim.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { RUNTIME } from '../harness/shim-node.ts';
import { BUSYBOX, Stack, until } from '../harness/stack.ts';
import { fromLane } from '../harness/provided.ts';

const VERSION = '580.159.04';
const UUID = 'GPU-00000000-0000-0000-0000-000000000001';
const LIBRARIES = '/usr/lib/x86_64-linux-gnu';

let stack: Stack;
let root: string;
let conf: string;
let confText: string;

beforeAll(async () => {
  const { dir } = fromLane('containerd');
  root = join(dir, 'driver-root');
  await makeDriver();
  conf = join(shimDirOf(dir), 'kybernate-runtime/kybernate-shim.conf');
  confText = readFileSync(conf, 'utf8');
  writeFileSync(conf, `${confText}driver-root=${root}\n`);
  stack = await Stack.open({ withSidecar: false });
});

afterAll(async () => {
  writeFileSync(conf, confText);
  await stack.close();
});

async function makeDriver(): Promise<void> {
  const put = (path: string, text: string): void => {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  };
  const gpu = (minor: number): string =>
    `Model: \t NVIDIA H100\nGPU UUID: \t ${UUID.replace(/1$/, String(minor))}\nDevice Minor: \t ${minor}\n`;
  put('/proc/driver/nvidia/version', `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  ${VERSION}  Release\n`);
  put('/proc/driver/nvidia/gpus/0000:41:00.0/information', gpu(0));
  put('/proc/driver/nvidia/gpus/0000:81:00.0/information', gpu(1));
  for (const name of ['libcuda', 'libnvidia-ml']) {
    put(`${LIBRARIES}/${name}.so.${VERSION}`, `${name} of the node\n`);
    symlinkSync(`${name}.so.${VERSION}`, join(root, LIBRARIES, `${name}.so.1`));
  }
  mkdirSync(join(root, 'dev'));
  for (const [name, minor] of [
    ['nvidia0', 0],
    ['nvidia1', 1],
    ['nvidiactl', 255],
  ] as const) {
    const made = await runExeca('mknod', ['-m', '666', join(root, 'dev', name), 'c', '195', String(minor)]);
    expect(made.stderr).toBe('');
  }
}

const COMMAND = ['sleep', '600'];
/** The image has no directory of libraries that a loader would search. */
const PLACE = '/usr/local/nvidia/lib64';

describe('a container that asks for GPUs', () => {
  it('has devices, rules and libraries, and can be checkpointed and restored with them', async () => {
    const id = 'cold';
    await stack.runContainer(id, BUSYBOX, COMMAND, [...RUNTIME, '--env', `NVIDIA_VISIBLE_DEVICES=${UUID}`]);
    const look = (container: string): Promise<string> =>
      stack.exec(
        container,
        '/bin/sh',
        '-c',
        `ls -l /dev | grep nvidia; cat ${PLACE}/libcuda.so.1; ls ${PLACE}; tr '\\0' '\\n' </proc/1/environ | grep -e NVIDIA -e LD_`,
      );
    const seen = await look(id);

    const lines = seen.trim().split('\n');
    expect(lines.slice(0, 2)).toEqual([
      expect.stringMatching(/^crw-rw-rw-.* 195, +1 .* nvidia1$/),
      expect.stringMatching(/^crw-rw-rw-.* 195, +255 .* nvidiactl$/),
    ]);
    expect(lines.slice(2)).toEqual([
      'libcuda of the node',
      'libcuda.so.1',
      `libcuda.so.${VERSION}`,
      'libnvidia-ml.so.1',
      `libnvidia-ml.so.${VERSION}`,
      'NVIDIA_VISIBLE_DEVICES=void',
      `LD_LIBRARY_PATH=${PLACE}`,
    ]);
    const rules = readFileSync(`/sys/fs/cgroup/devices/${stack.namespace}/${id}/devices.list`, 'utf8');
    expect(rules).toContain('c 195:1 rwm');
    expect(rules).not.toContain('c 195:0 ');

    const { checkpointId } = await stack.checkpoint(id);
    await stack.removeContainer(id);
    await stack.restore(checkpointId, 'cold-back');

    expect(await look('cold-back')).toBe(seen);
  });

  it('by the annotation is refused one that the node does not have, with the list of those that it has', async () => {
    const started = stack.runContainer('none', BUSYBOX, COMMAND, [...RUNTIME, '--annotation', 'kybernate.io/gpus=7']);

    await expect(started).rejects.toThrow(
      /annotation kybernate\.io\/gpus asks for GPU 7, which this node does not have; it has 0 GPU-\S+0 \(NVIDIA H100\), 1 /,
    );
  });

  it('in a pod gets those that kubelet has named, and so does the pod that takes over its checkpoint', async () => {
    const labels = (name: string): string[] => [
      '--label=io.kubernetes.pod.namespace=ml',
      `--label=io.kubernetes.pod.name=${name}`,
      '--label=io.kubernetes.container.name=app',
    ];
    const pod = (name: string, more: Readonly<Record<string, string>> = {}): string[] => [
      ...RUNTIME,
      ...labels(name),
      `--env=NVIDIA_VISIBLE_DEVICES=${UUID}`,
      ...Object.entries({
        'io.kubernetes.cri.container-type': 'container',
        'io.kubernetes.cri.container-name': 'app',
        'io.kubernetes.cri.sandbox-namespace': 'ml',
        'io.kubernetes.cri.sandbox-name': name,
        'io.kubernetes.cri.sandbox-uid': `uid-of-${name}`,
        // What every user can write gives nothing.
        'kybernate.io/gpus': 'all',
        ...more,
      }).flatMap(([key, value]) => ['--annotation', `${key}=${value}`]),
    ];
    const devices = (id: string): Promise<string> => stack.exec(id, '/bin/sh', '-c', 'ls /dev | grep nvidia');
    await stack.runContainer('given', BUSYBOX, COMMAND, pod('given'));
    expect(await devices('given')).toBe('nvidia1\nnvidiactl\n');
    const { checkpointId } = await stack.checkpoint('given');

    await stack.runContainer('taken', BUSYBOX, ['false'], pod('taken', { 'kybernate.io/restore-from': checkpointId }));

    expect(await devices('taken')).toBe('nvidia1\nnvidiactl\n');
    expect(await stack.exec('taken', '/bin/cat', '/proc/1/cmdline', `${PLACE}/libcuda.so.1`)).toBe(
      'sleep\u0000600\u0000libcuda of the node\n',
    );
  });

  it('on a node without any starts without', async () => {
    writeFileSync(conf, confText);
    try {
      const flags = [...RUNTIME, '--env', 'NVIDIA_VISIBLE_DEVICES=all'];
      await stack.runContainer('without', BUSYBOX, COMMAND, flags);
      await until('the container to run', async () => (await stack.ctr('tasks', 'ls')).includes('RUNNING'));

      expect(await stack.exec('without', '/bin/sh', '-c', 'ls /dev; env')).toMatch(/NVIDIA_VISIBLE_DEVICES=all/);
      expect(await stack.exec('without', '/bin/ls', '/dev')).not.toContain('nvidia');
    } finally {
      writeFileSync(conf, `${confText}driver-root=${root}\n`);
    }
  });
});
