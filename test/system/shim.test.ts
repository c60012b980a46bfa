/*
 * The runtime io.containerd.runc.kybernate.v1 with real containerd, runc and CRIU. Checkpoints are hand-made: nothing
 * of the capture is used.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { restoresUsing } from '../../engine/restore-operation.ts';
import { BUSYBOX_IMAGE } from '../harness/images.ts';
import { COUNTER, RUNTIME, ShimNode, echoClient, from, sharedUts } from '../harness/shim-node.ts';

let node: ShimNode;

beforeAll(() => {
  node = new ShimNode();
});

afterAll(() => node.close());

beforeEach(() => node.startAgent());

afterEach(async () => {
  await node.stopAgent();
  await node.removeContainers();
});

describe('a container that asks for no restore', () => {
  it('runs, execs and reports its exit code with no agent on the node', async () => {
    await node.stopAgent();
    const id = node.name('plain');

    expect(
      (await node.run(id, ['--env', 'RESTORE=x'], 'sh', '-c', 'while [ ! -e /go ]; do sleep 0.05; done; exit 7'))
        .stderr,
    ).toBe('');
    expect(await node.exec(id, 'echo $RESTORE; touch /go')).toBe('x');

    await node.untilStopped(id);
    expect((await node.ctr('tasks', 'rm', id)).stderr).toContain('exit code 7');
    expect(node.traces(id)).toEqual([]);
  });

  it('is the sandbox of a pod although the annotation of the pod reached it', async () => {
    const id = node.name('sandbox');

    const started = await node.run(
      id,
      [...from('ck-of-the-app'), '--annotation', 'io.kubernetes.cri.container-type=sandbox'],
      'sleep',
      '100',
    );

    expect(started.stderr).toBe('');
    expect(node.messages).not.toContain('restore prepared');
  });
});

describe('a container that asks for a checkpoint of this node', () => {
  it('continues where the source was, with its files, and can be used like any other', async () => {
    const source = await node.startCounter([], 'echo kept > /root/kept; rm /bin/vi');
    const checkpointId = await node.checkpoint(source);
    const then = await node.count(source);
    const id = node.name('restored');

    const started = await node.run(id, from(checkpointId), 'false');

    expect(started.stderr).toBe('');
    const first = await node.count(id);
    expect(first).toBeGreaterThan(1);
    expect(first).toBeLessThan(then + 20);
    await node.countAbove(id, first);
    expect(await node.exec(id, 'cat /root/kept; ls /bin/vi 2>&1; cat /proc/1/cgroup')).toMatch(
      new RegExp(`^kept\n.*No such file[^]*freezer:/.*/${id}`),
    );
    const kill = await node.ctr('tasks', 'kill', '-s', 'SIGKILL', id);
    expect(kill.exitCode).toBe(0);
    await node.untilStopped(id);
    expect((await node.ctr('tasks', 'rm', id)).stderr).toContain('137');
    expect(node.traces(id)).toEqual([]);
    expect(restoresUsing(node.deps.settings, checkpointId)).toEqual([]);
    expect(await node.count(source)).toBeGreaterThan(then);
  });

  it('does so by the variable RESTORE_FROM where the node allows it', async () => {
    const source = await node.startCounter();
    const checkpointId = await node.checkpoint(source);
    const id = node.name('env');

    expect((await node.run(id, ['--env', `RESTORE_FROM=${checkpointId}`], 'false')).stderr).toBe('');

    await node.countAbove(id, 1);
  });

  it('does so twice at once from the same images', async () => {
    const source = await node.startCounter();
    const checkpointId = await node.checkpoint(source);
    const ids = [node.name('one'), node.name('two')];

    const started = await Promise.all(ids.map((id) => node.run(id, from(checkpointId), 'false')));

    expect(started.map((result) => result.stderr)).toEqual(['', '']);
    for (const id of ids) {
      await node.countAbove(id, await node.count(id));
    }
  });

  it('can be checkpointed and restored again, twice over', async () => {
    let current = await node.startCounter([], 'echo kept > /root/kept');
    let seen = 0;

    for (let generation = 0; generation < 2; generation += 1) {
      const checkpointId = await node.checkpoint(current);
      seen = await node.count(current);
      await node.ctrOk('tasks', 'kill', '-s', 'SIGKILL', current);
      current = node.name('generation');
      expect((await node.run(current, from(checkpointId), 'false')).stderr).toBe('');
    }

    expect(await node.countAbove(current, seen)).toBeGreaterThan(seen);
    expect(await node.exec(current, 'cat /root/kept')).toBe('kept');
  });

  it('keeps the host name of the UTS namespace that it joins', async () => {
    const uts = await sharedUts('the-new-pod');
    const source = await node.startCounter();
    const checkpointId = await node.checkpoint(source);
    const id = node.name('uts');

    try {
      const started = await node.run(id, [...from(checkpointId), '--with-ns', `uts:${uts.path}`], 'false');

      expect(started.stderr).toBe('');
      expect(await node.exec(id, 'hostname')).toBe('the-new-pod');
    } finally {
      uts.end();
    }
  });

  it('gets the mounts and the device rules of the source that its own specification lacks', async () => {
    const shared = join(node.dir, `shared-${node.next()}`);
    mkdirSync(shared);
    writeFileSync(join(shared, 'file'), 'shared');
    const flags = ['--mount', `type=bind,src=${shared},dst=/mnt,options=rbind`, '--device', '/dev/loop-control'];
    const source = await node.startCounter(flags, 'exec 9</mnt/file');
    const checkpointId = await node.checkpoint(source);
    const id = node.name('bare-spec');

    expect((await node.run(id, from(checkpointId), 'false')).stderr).toBe('');

    expect(await node.exec(id, 'cat /mnt/file; exec 8</dev/loop-control && echo opened')).toBe('sharedopened');
  });

  it('finds its TCP connections closed and listens on', async () => {
    const port = 20_000 + (process.pid % 20_000);
    const serve = `nc -ll -p ${port} -e /bin/cat & ${COUNTER}`;
    const source = node.name('tcp');
    expect((await node.run(source, ['--net-host'], 'sh', '-c', serve)).stderr).toBe('');
    const client = await echoClient(port);
    const checkpointId = await node.checkpoint(source, { flags: ['--tcp-established'] });
    await node.ctrOk('tasks', 'kill', '-s', 'SIGKILL', source);
    await node.untilStopped(source);
    client.destroy();
    const id = node.name('tcp-close');

    const started = await node.run(id, [...from(checkpointId), '--net-host'], 'false');

    expect(started.stderr).toBe('');
    (await echoClient(port)).destroy();
    await node.countAbove(id, 1);
  });

  it('brings back a container with a terminal', async () => {
    const source = node.name('tty');
    const shell = node.terminal([...RUNTIME, BUSYBOX_IMAGE, source, 'sh', '-c', `tty; ${COUNTER}`]);
    await node.untilRunning(source);
    const checkpointId = await node.checkpoint(source, {
      flags: ['--shell-job'],
      recorded: ['shell-job'],
      metadata: { stdio: { terminal: true, stdin: 'tty', stdout: 'tty', stderr: 'tty' } },
    });
    const refused = await node.run(node.name('no-tty'), from(checkpointId), 'false');
    const id = node.name('tty-restored');
    const restored = node.terminal([...RUNTIME, ...from(checkpointId), BUSYBOX_IMAGE, id, 'false']);

    await node.untilRunning(id);

    await node.countAbove(id, await node.count(id));
    expect(await node.exec(id, 'readlink /proc/1/fd/1')).toBe('/dev/pts/0');
    expect(refused.stderr).toContain('taken with a terminal');
    await node.ctr('tasks', 'kill', '-s', 'SIGKILL', source);
    await node.ctr('tasks', 'kill', '-s', 'SIGKILL', id);
    await Promise.all([shell, restored]);
  });

  it('reads on from a new stdin and writes to a new stdout', async () => {
    const script = 'while read line; do echo "got $line"; done';
    const source = node.name('pipe');
    const first = node.piped([...RUNTIME, BUSYBOX_IMAGE, source, 'sh', '-c', script]);
    first.write('a\n');
    await first.saw('got a');
    const checkpointId = await node.checkpoint(source);
    const id = node.name('pipe-restored');

    const second = node.piped([...RUNTIME, ...from(checkpointId), BUSYBOX_IMAGE, id, 'false']);
    second.write('b\n');

    await second.saw('got b');
    // ctr loses an end of its input that comes before its task is started
    await node.untilRunning(id);
    second.end();
    expect(await second.exit).toBe(0);
    first.end();
    await first.exit;
  });
});
