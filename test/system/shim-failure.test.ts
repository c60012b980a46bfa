/* What the runtime refuses, how it fails, and what the worker's own steps make of it. */
import { chmodSync, cpSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { removeRestored } from '../../engine/restore-end.ts';
import { createRestoreContainer, planRestore } from '../../engine/restore.ts';
import { startRestored } from '../../engine/restore-start.ts';
import { restoresUsing } from '../../engine/restore-operation.ts';
import { BUSYBOX_IMAGE } from '../harness/images.ts';
import { RUNTIME, ShimNode, from } from '../harness/shim-node.ts';

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

describe('a restore that fails', () => {
  it("reports CRIU's error lines, keeps its log and leaves nothing", async () => {
    const checkpointId = await node.checkpoint(await node.startCounter());
    node.damage(checkpointId);
    const before = node.savedLogs().length;
    const id = node.name('broken');

    const started = await node.run(id, from(checkpointId), 'false');

    expect(started.exitCode).not.toBe(0);
    expect(started.stderr).toContain(`container ${id} was not restored from ${checkpointId}: runc restore failed`);
    expect(started.stderr).toContain('Unexpected EOF');
    expect(node.savedLogs().length).toBe(before + 1);
    expect(node.traces(id)).toEqual([]);
    expect(restoresUsing(node.deps.settings, checkpointId)).toEqual([]);
  });

  it('starts the container afresh, in a root without a trace of the checkpoint, when its policy says so', async () => {
    const checkpointId = await node.checkpoint(
      await node.startCounter([], 'echo kept > /root/kept; rm /bin/vi; chmod 700 /'),
    );
    node.damage(checkpointId);
    const id = node.name('cold');

    const started = await node.run(id, from(checkpointId, 'on-failure=cold-start'), 'sleep', '100');

    expect(started.stderr).toBe('');
    expect(await node.exec(id, 'ls /root /bin/vi; stat -c %a /; cat /proc/1/cmdline | tr "\\0" " "')).toBe(
      '/bin/vi\n\n/root:\n755\nsleep 100',
    );
    expect(node.messages).toContain('restore cold-started');
  });

  it('follows its policy, never a guess, when the agent is away', async () => {
    await node.stopAgent();
    const [strict, lenient] = [node.name('strict'), node.name('lenient')];

    const failed = await node.run(strict, from('ck-1'), 'sleep', '100');
    const cold = await node.run(lenient, from('ck-1', 'on-failure=cold-start'), 'sleep', '100');

    expect(failed.stderr).toContain('does not answer (ENOENT)');
    expect(node.traces(strict)).toEqual([]);
    expect(cold.stderr).toBe('');
    expect(await node.exec(lenient, 'echo runs')).toBe('runs');
  });

  it('names the mount that the new node cannot offer', async () => {
    const shared = join(node.dir, `gone-${node.next()}`);
    mkdirSync(shared);
    const source = await node.startCounter(['--mount', `type=bind,src=${shared},dst=/mnt,options=rbind`]);
    const checkpointId = await node.checkpoint(source);
    await node.ctr('tasks', 'kill', '-s', 'SIGKILL', source);
    await node.untilStopped(source);
    rmSync(shared, { recursive: true });

    const started = await node.run(node.name('no-mount'), from(checkpointId), 'false');

    expect(started.stderr).toContain(`${shared} does not exist on this node`);
  });
});

describe('a path as the origin', () => {
  it('restores the images of a plain `ctr tasks checkpoint`, unverified', async () => {
    const source = await node.startCounter();
    const images = join(node.root, 'plain');
    await node.ctrOk('tasks', 'checkpoint', '--image-path', images, '--work-path', join(node.dir, 'w'), source);
    const [refused, id] = [node.name('checked'), node.name('unverified')];

    const first = await node.run(refused, from(images), 'false');
    const second = await node.run(id, from(images, 'unverified=true'), 'false');

    expect(first.stderr).toContain('bare image directory');
    expect(second.stderr).toBe('');
    await node.countAbove(id, await node.count(id));
    expect(await node.count(source)).toBeGreaterThan(0);
  });

  it('is refused outside of the roots, through a link, or when others could change it', async () => {
    const outside = join(node.dir, 'outside');
    mkdirSync(outside, { recursive: true });
    writeFileSync(join(outside, 'inventory.img'), '');
    symlinkSync(outside, join(node.root, 'link'));
    cpSync(outside, join(node.root, 'open'), { recursive: true });
    chmodSync(join(node.root, 'open'), 0o777);

    for (const path of [
      outside,
      join(node.root, 'link'),
      join(node.root, 'open'),
      `${node.root}/../outside`,
      node.root,
      '/nowhere',
    ]) {
      const started = await node.run(node.name('refused'), from(path, 'unverified=true'), 'false');
      expect(started.stderr, path).toMatch(/refused|must not contain/);
    }
  });

  it('is refused in the variable RESTORE_FROM', async () => {
    const started = await node.run(
      node.name('env-path'),
      ['--env', `RESTORE_FROM=${join(node.root, 'plain')}`],
      'false',
    );

    expect(started.stderr).toContain('takes checkpoint ids only');
  });
});

describe('a restore by the worker', () => {
  it('makes a container, brings it back into a log file, and takes everything away again', async () => {
    const checkpointId = await node.checkpoint(await node.startCounter([], 'echo kept > /root/kept'));
    const id = node.name('made');
    const { namespace } = node;
    const context = { checkpointId, container: { namespace, id }, token: 1 };
    const operationId = hex(id);
    const input = {
      context,
      workflow: workflowOf(id),
      operationId,
      localPath: node.checkpointDir(checkpointId),
      tcp: 'close' as const,
      gpuMap: [],
      onFailure: 'fail' as const,
      stdio: { kind: 'log' as const, path: join(node.dir, `${id}.log`) },
    };

    const plan = await planRestore(node.deps, node.op, { ...input, checkpointDir: input.localPath });
    await createRestoreContainer(node.deps, node.op, input);
    await createRestoreContainer(node.deps, node.op, input);
    expect(restoresUsing(node.deps.settings, checkpointId)).toEqual([operationId]);
    const started = await startRestored(node.deps, node.op, { context, operationId, restoreBudgetMs: 60_000 });
    const again = await startRestored(node.deps, node.op, { context, operationId, restoreBudgetMs: 60_000 });

    // Its metadata is written by hand, without what the preflight would compare.
    expect(plan.warnings).toEqual(['the checkpoint does not record lsm, huge-pages: not compared']);
    expect(started.how).toBe('restored');
    expect(again).toEqual(started);
    expect(readFileSync(`/proc/${started.initHostPid}/cgroup`, 'utf8')).toContain(id);
    await node.countAbove(id, await node.count(id));
    expect(await node.exec(id, 'cat /root/kept')).toBe('kept');
    await removeRestored(node.deps, node.op, { operationId, container: context.container });
    await removeRestored(node.deps, node.op, { operationId, container: context.container });
    expect(node.traces(id)).toEqual([]);
    expect(await node.deps.containerd.getContainer(namespace, id)).toBeUndefined();
    expect(await node.deps.containerd.statSnapshot(namespace, 'overlayfs', `kybernate-${operationId}`)).toBeUndefined();
  });

  it('brings back a container with a terminal, whose output somebody must read, into a log file', async () => {
    const source = node.name('tty');
    const shell = node.terminal([
      ...RUNTIME,
      BUSYBOX_IMAGE,
      source,
      'sh',
      '-c',
      'while echo tick; do sleep 0.05; done',
    ]);
    await node.untilRunning(source);
    const checkpointId = await node.checkpoint(source, {
      flags: ['--shell-job'],
      recorded: ['shell-job'],
      metadata: { stdio: { terminal: true, stdin: 'tty', stdout: 'tty', stderr: 'tty' } },
    });
    const id = node.name('made-tty');
    const context = { checkpointId, container: { namespace: node.namespace, id }, token: 1 };
    const operationId = hex(id);
    const log = join(node.dir, `${id}.log`);
    await createRestoreContainer(node.deps, node.op, {
      context,
      workflow: workflowOf(id),
      operationId,
      localPath: node.checkpointDir(checkpointId),
      tcp: 'close',
      gpuMap: [],
      onFailure: 'fail',
      stdio: { kind: 'log', path: log },
    });

    await startRestored(node.deps, node.op, { context, operationId, restoreBudgetMs: 60_000 });

    await expect.poll(() => readFileSync(log, 'utf8'), { timeout: 10_000 }).toContain('tick\r\ntick');
    await removeRestored(node.deps, node.op, { operationId, container: context.container });
    await node.ctr('tasks', 'kill', '-s', 'SIGKILL', source);
    await shell;
  });

  it('fails with the reason of CRIU, or of its budget, and leaves a container that can be removed', async () => {
    const { namespace } = node;
    for (const [budget, spoil, reason] of [
      [60_000, true, 'Unexpected EOF'],
      [1, false, 'not done after 1 ms'],
    ] as const) {
      const checkpointId = await node.checkpoint(await node.startCounter());
      const id = node.name('unmade');
      const context = { checkpointId, container: { namespace, id }, token: 1 };
      const operationId = hex(id);
      const localPath = node.checkpointDir(checkpointId);
      await createRestoreContainer(node.deps, node.op, {
        context,
        workflow: workflowOf(id),
        operationId,
        localPath,
        tcp: 'close',
        gpuMap: [],
        onFailure: 'fail',
        stdio: { kind: 'null' },
      });
      if (spoil) {
        node.damage(checkpointId);
      }

      const error = await startRestored(node.deps, node.op, { context, operationId, restoreBudgetMs: budget }).catch(
        (thrown: unknown) => thrown,
      );

      expect(error).toMatchObject({ type: 'RestoreFailed' });
      expect((error as Error).message).toContain(reason);
      expect(node.traces(id)).toEqual([]);
      await removeRestored(node.deps, node.op, { operationId, container: context.container });
      expect(await node.deps.containerd.getContainer(namespace, id)).toBeUndefined();
    }
  });

  it('refuses an id that is taken, and its undo leaves the owner alone', async () => {
    const source = await node.startCounter();
    const checkpointId = await node.checkpoint(source);
    const { namespace } = node;
    const context = { checkpointId, container: { namespace, id: source }, token: 1 };
    const operationId = hex(source);
    const checkpointDir = node.checkpointDir(checkpointId);

    await expect(
      planRestore(node.deps, node.op, {
        context,
        operationId,
        workflow: workflowOf(source),
        checkpointDir,
        tcp: 'close',
        gpuMap: [],
      }),
    ).rejects.toMatchObject({
      type: 'InvalidInput',
    });
    await removeRestored(node.deps, node.op, { operationId, container: context.container });

    await node.countAbove(source, await node.count(source));
  });
});

/** Each restore is a workflow of its own. */
function workflowOf(id: string): { workflowId: string; runId: string } {
  return { workflowId: `restore:${id}`, runId: id };
}

function hex(text: string): string {
  return Buffer.from(text).toString('hex').padEnd(32, '0').slice(-32);
}
