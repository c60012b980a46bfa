/* What becomes of the source: with a terminal, held, stopped, asked for twice at once; and a real server, redis. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, it } from 'vitest';

import { newestToken } from '../../engine/operation.ts';
import { checkpointsOf, COUNTER, counter, countsOn, nothingLeft } from '../harness/aftermath.ts';
import { makeNetworkNamespace } from '../harness/network.ts';
import { BUSYBOX, REDIS, Stack, until } from '../harness/stack.ts';
import { fromLane } from '../harness/provided.ts';

let stack: Stack;

beforeAll(async () => {
  stack = await Stack.open();
  await stack.runContainer('steady', BUSYBOX, COUNTER);
  await countsOn(stack, 'steady');
});
afterAll(async () => {
  await stack.close();
});

/** `ctr run -t`, which wants a terminal of its own: `script` gives it one. Ends with the container. */
function runInTerminal(id: string, script: string): ChildProcess {
  const { address, path } = fromLane('containerd');
  const command = `ctr -a ${address} -n ${stack.namespace} run -t ${BUSYBOX} ${id} /bin/sh -c '${script}'`;
  const env = { PATH: path, TERM: 'xterm', CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS: '1' };
  return spawn('script', ['-qfc', command, '/dev/null'], { env, stdio: 'ignore' });
}

it('a container with a terminal is checkpointed and comes back with a terminal of its own, its output in a log', async () => {
  const log = `${stack.dir}/terminal.log`;
  const loop = 'tty > /tmp/tty; i=0; while true; do i=$((i+1)); echo $i > /tmp/n; echo line $i; sleep 0.02; done';
  const shell = runInTerminal('tty', loop);
  try {
    await countsOn(stack, 'tty');

    const { checkpointId, source } = await stack.checkpoint('tty');
    expect(source).toBe('running');
    await countsOn(stack, 'tty');
    const seen = await counter(stack, 'tty');
    const restored = await stack.restore(checkpointId, 'tty-back', { stdio: { kind: 'log', path: log } });

    expect(restored.how).toBe('restored');
    await countsOn(stack, 'tty-back');
    expect(await counter(stack, 'tty-back')).toBeLessThan(seen + 500);
    expect(await stack.exec('tty-back', '/bin/readlink', '/proc/1/fd/1')).toMatch(/^\/dev\/(pts\/\d+|console)/);
    expect((await stack.read('tty-back', '/tmp/tty')).trim()).toBe((await stack.read('tty', '/tmp/tty')).trim());
    await until('its output in the log', () => /line \d+\r\nline \d+/.test(readText(log)));
    const again = await stack.checkpoint('tty-back');
    expect(again.source).toBe('running');
    await countsOn(stack, 'tty-back');
    stack.removeLocal(checkpointId);
    stack.removeLocal(again.checkpointId);
    await nothingLeft(stack);
  } finally {
    // The `ctr` that is attached deletes the task itself: not both at once.
    const ended = shell.exitCode === null ? once(shell, 'exit') : undefined;
    await stack.ctr('tasks', 'kill', '-s', 'SIGKILL', 'tty').catch(() => '');
    await ended;
    await stack.removeContainer('tty');
    await stack.removeContainer('tty-back');
  }
});

function readText(file: string): string {
  return existsSync(file) ? readFileSync(file, 'utf8') : '';
}

it('a container whose streams are pipes gets pipes again, and can be checkpointed as often as one likes', async () => {
  const log = `${stack.dir}/pipes.log`;
  const script =
    'i=0; while true; do i=$((i+1)); echo $i > /tmp/n; echo line $i; echo error $i >&2; ' +
    'read -t 1 line || echo end > /tmp/stdin; sleep 0.02; done';
  await stack.ctr('run', '-d', BUSYBOX, 'piped', '/bin/sh', '-c', script);
  let from = 'piped';
  for (const stdio of [{ kind: 'null' }, { kind: 'log', path: log }] as const) {
    await countsOn(stack, from);
    const { checkpointId } = await stack.checkpoint(from);
    const id = `${from}-again`;

    await stack.restore(checkpointId, id, { stdio });

    await countsOn(stack, id);
    for (const fd of [0, 1, 2]) {
      expect(await stack.exec(id, '/bin/readlink', `/proc/1/fd/${fd}`)).toMatch(/^pipe:/);
    }
    if (stdio.kind === 'log') {
      await until('its output in the log', () => /line \d+\nerror \d+/.test(readText(log)));
    }
    await until('the end of its input', async () => (await stack.read(id, '/tmp/stdin')).startsWith('end'));
    await stack.removeContainer(from);
    stack.removeLocal(checkpointId);
    from = id;
  }
  await stack.removeContainer(from);
  await nothingLeft(stack);
});

it('hold ends with its budget: the source runs on and the checkpoint stays', async () => {
  const handle = await stack.startCheckpoint('steady', { after: 'hold', holdBudgetMs: 1500 });
  await until('the hold', () => stack.freezerOf('steady') === 'FROZEN');

  const result = await handle.result();

  expect(result.source).toBe('running');
  await countsOn(stack, 'steady');
  await nothingLeft(stack, [handle.checkpointId]);
  stack.removeLocal(handle.checkpointId);
});

it('cancelling while it is held lets the source run; what was committed stays, and waits for no upload', async () => {
  const handle = await stack.startCheckpoint('steady', { after: 'hold', durability: 'remote' });
  await until('the commit', () => stack.localCheckpoints().length === 1);
  await until('the hold', async () => (await handle.progress())?.phase === 'holding');
  expect(stack.freezerOf('steady')).toBe('FROZEN');

  await handle.cancel();

  await expect(handle.result()).rejects.toMatchObject({ cause: { name: 'CancelledFailure' } });
  await countsOn(stack, 'steady');
  expect((await checkpointsOf(stack)).pending).toEqual([]);
  await nothingLeft(stack, [handle.checkpointId]);
  stack.removeLocal(handle.checkpointId);
});

it('two checkpoints of one container asked for at once come one after the other, with increasing tokens', async () => {
  const container = { namespace: stack.namespace, id: 'steady' };
  const before = newestToken({ runDir: stack.runDir }, container);

  const [first, second] = await Promise.all([stack.checkpoint('steady'), stack.checkpoint('steady')]);

  expect([first.source, second.source]).toEqual(['running', 'running']);
  expect(newestToken({ runDir: stack.runDir }, container)).toBe(before + 2);
  await countsOn(stack, 'steady');
  const ids = [first.checkpointId, second.checkpointId];
  await nothingLeft(stack, ids);
  ids.forEach((id) => stack.removeLocal(id));
});

it('redis comes back with its run id and its keys', async () => {
  const network = await makeNetworkNamespace('kybredis', 16);
  const flags = ['--with-ns', `network:${network.path}`];
  const cli = async (id: string, ...args: string[]): Promise<string> =>
    (await stack.exec(id, '/usr/bin/redis-cli', '-h', network.address, ...args)).trim();
  const runId = async (id: string): Promise<string | undefined> =>
    /run_id:(\w+)/.exec(await cli(id, 'info', 'server'))?.[1];
  try {
    const command = [
      '/usr/bin/redis-server',
      '--save',
      '',
      '--bind',
      '0.0.0.0',
      '--protected-mode',
      'no',
      '--enable-debug-command',
      'yes',
    ];
    await stack.runContainer('redis', REDIS, command, flags);
    await until('redis', async () => (await cli('redis', 'ping').catch(() => '')) === 'PONG');
    await cli('redis', 'debug', 'populate', '20000', 'key', '64');
    await cli('redis', 'set', 'answer', '42');
    const before = await runId('redis');
    const digest = await cli('redis', 'debug', 'digest');

    const { checkpointId, source } = await stack.checkpoint('redis', { after: 'stop' });
    await stack.removeContainer('redis');
    await stack.restore(checkpointId, 'redis-back', { networkNamespace: network.path });

    expect(source).toBe('stopped');
    expect(before).toMatch(/^[0-9a-f]{40}$/);
    expect(await runId('redis-back')).toBe(before);
    expect(await cli('redis-back', 'dbsize')).toBe('20001');
    expect(await cli('redis-back', 'debug', 'digest')).toBe(digest);
    expect(await cli('redis-back', 'get', 'answer')).toBe('42');
    await cli('redis-back', 'set', 'answer', '43');
    stack.removeLocal(checkpointId);
    await nothingLeft(stack);
  } finally {
    await stack.removeContainer('redis-back');
    await network.remove();
  }
});
