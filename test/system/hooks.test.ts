/* Hook scripts in checkpoints and restores of real containers: their order, their veto, their limit, their end. */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import type { CriuEventName } from '../../core/hooks.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { readProcess } from '../../native/proc/tree.ts';
import { BUSYBOX, Stack, until } from '../harness/stack.ts';

const COUNTER = ['/bin/sh', '-c', 'i=0; while true; do i=$((i+1)); echo $i > /tmp/n; sleep 0.02; done'];
const TIMEOUT_MS = 3000;
const OF_A_CHECKPOINT = ['pre-dump', 'network-lock', 'post-dump', 'network-unlock'] as const;
const OF_A_RESTORE = [
  'pre-restore',
  'setup-namespaces',
  'post-setup-namespaces',
  'post-restore',
  'network-unlock',
  'pre-resume',
  'post-resume',
] as const;

let stack: Stack;
let dir: string;

beforeAll(async () => {
  // Root's alone on the whole way down, and not mounted noexec.
  dir = mkdtempSync('/var/lib/kybernate-hooks-');
  stack = await Stack.open({
    env: {
      KYBERNATE_HOOKS_DIR: join(dir, 'hooks.d'),
      KYBERNATE_HOOK_TIMEOUT_MS: String(TIMEOUT_MS),
      KYBERNATE_HOOK_POLICY: 'fail,network-unlock=warn',
    },
  });
  await stack.runContainer('hooked', BUSYBOX, COUNTER);
});
// Also where the stack could not be opened; the hooks of vitest run last one first.
afterAll(() => rmSync(dir, { recursive: true }));
afterAll(() => stack.close());
beforeEach(() => mkdirSync(join(dir, 'hooks.d'), { mode: 0o755 }));
afterEach(() => {
  for (const name of readdirSync(dir)) {
    rmSync(join(dir, name), { recursive: true });
  }
});

function hook(event: CriuEventName, body: string, mode = 0o755): string {
  const file = join(dir, 'hooks.d', event, '10-test');
  mkdirSync(join(file, '..'), { recursive: true, mode: 0o755 });
  writeFileSync(file, `#!/bin/sh\n${body}\n`);
  chmodSync(file, mode);
  return file;
}

/** Every event leaves a line: its name, the state of the source's freezer, and what the hook can see of the images. */
function recordAll(events: readonly CriuEventName[]): void {
  const freezer = `/sys/fs/cgroup/freezer/${stack.namespace}/hooked/freezer.state`;
  for (const event of events) {
    const images = '$(ls "$KYBERNATE_IMAGE_DIR"/inventory.img >/dev/null 2>&1 && echo images)';
    hook(
      event,
      `echo "$KYBERNATE_EVENT $(cat ${freezer}) ${images}" >>${dir}/record\nenv >${dir}/env-$KYBERNATE_EVENT`,
    );
  }
}

function recorded(): string[] {
  return readFileSync(join(dir, 'record'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => line.trim());
}

function environment(event: CriuEventName): Record<string, string> {
  const lines = readFileSync(join(dir, `env-${event}`), 'utf8')
    .trim()
    .split('\n');
  return Object.fromEntries(lines.map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]));
}

async function counter(id = 'hooked'): Promise<number> {
  return Number(await stack.read(id, '/tmp/n'));
}

async function countsOn(id = 'hooked'): Promise<void> {
  const seen = await counter(id);
  await until('the counter to go on', async () => (await counter(id)) > seen);
}

function initPid(id: string): Promise<string> {
  return stack.ctr('tasks', 'ls').then((text) => new RegExp(`^${id}\\s+(\\d+)`, 'm').exec(text)?.[1] ?? '');
}

test('every event of a checkpoint and of a restore comes in its order, with the documented environment', async () => {
  recordAll([...OF_A_CHECKPOINT, ...OF_A_RESTORE, 'query-ext-files', 'orphan-pts-master']);
  const pid = await initPid('hooked');

  const result = await stack.checkpoint('hooked');
  const atDump = recorded();
  const env = environment('network-lock');
  rmSync(join(dir, 'record'));
  const restored = await stack.restore(result.checkpointId, 'hooked-back');
  const atRestore = recorded();

  expect(atDump.map((line) => line.split(' ')[0])).toEqual(OF_A_CHECKPOINT);
  expect(atDump[0]).toBe('pre-dump THAWED');
  expect(atDump[2]).toMatch(/^post-dump \w+ images$/);
  expect(atRestore.map((line) => line.split(' ')[0])).toEqual(OF_A_RESTORE);
  const known = {
    KYBERNATE_KIND: 'container',
    KYBERNATE_NODE: stack.node,
    KYBERNATE_CHECKPOINT_ID: result.checkpointId,
  };
  const imageDir = join(result.localPath, 'criu');
  expect(env).toMatchObject({
    ...known,
    KYBERNATE_EVENT: 'network-lock',
    KYBERNATE_OPERATION: 'checkpoint',
    KYBERNATE_CONTAINER: 'hooked',
    KYBERNATE_CONTAINER_NAMESPACE: stack.namespace,
    KYBERNATE_PID: pid,
    KYBERNATE_IMAGE_DIR: imageDir,
    CRTOOLS_SCRIPT_ACTION: 'network-lock',
    CRTOOLS_IMAGE_DIR: imageDir,
    CRTOOLS_INIT_PID: pid,
  });
  expect(Object.keys(env).filter((name) => !/^(?:KYBERNATE_|CRTOOLS_|PATH$|PWD$|_$|SHLVL$)/.test(name))).toEqual([]);
  expect(environment('post-restore')).toMatchObject({
    ...known,
    KYBERNATE_OPERATION: 'restore',
    KYBERNATE_CONTAINER: 'hooked-back',
    KYBERNATE_CONTAINER_NAMESPACE: stack.namespace,
    KYBERNATE_PID: String(restored.initHostPid),
    KYBERNATE_IMAGE_DIR: imageDir,
  });
  expect(Object.keys(result.phases.parts)).toEqual(
    expect.arrayContaining(OF_A_CHECKPOINT.map((event) => `hook-${event}`)),
  );
  expect(Math.abs(result.phases.unaccountedMs)).toBeLessThanOrEqual(Math.max(2, result.phases.totalMs * 0.02));
  expect(readFileSync(join(result.localPath, 'logs/hooks.log'), 'utf8')).toMatch(/^pre-dump .*: exit code 0, \d+ ms$/m);
  await countsOn('hooked-back');
  await stack.removeContainer('hooked-back');
});

function runExample(container: string): ReturnType<typeof runExeca> {
  const script = fileURLToPath(new URL('../../examples/hooks/run.sh', import.meta.url));
  return runExeca('/bin/sh', [script, container, '--namespace', stack.namespace], { env: stack.variables });
}

test('the example refuses a checkpoint, lets one pass, and takes its hooks away', async () => {
  const container = `held-${stack.node}`;
  await stack.runContainer(container, BUSYBOX, COUNTER);

  const result = await runExample(container);

  expect(result.stderr).toContain(
    `HookFailed: hook ${dir}/hooks.d/pre-dump/10-hold at pre-dump ended with exit code 1`,
  );
  expect(result.stdout).toMatch(
    /refused, as it should be; the container runs on\n[^]*\npost-dump [^]*checkpoint hooks-/,
  );
  expect(result.exitCode).toBe(0);
  expect(readdirSync(join(dir, 'hooks.d'))).toEqual([]);
  await countsOn(container);
  await stack.removeContainer(container);
});

test('the example takes no other failure for the refusal of its hook', async () => {
  hook('post-dump', 'exit 0');

  const result = await runExample(`nobody-${stack.node}`);

  expect(result.stderr).toMatch(/ContainerNotFound[^]*the checkpoint failed, and not by the hook/);
  expect(result.stdout).not.toContain('refused');
  expect(result.exitCode).toBe(3);
  expect(readdirSync(join(dir, 'hooks.d'), { recursive: true })).toEqual(['post-dump', 'post-dump/10-test']);
});

test('with the engine containerd there are two moments, before the freeze and after the dump', async () => {
  recordAll(['pre-dump', 'post-dump']);

  await stack.checkpoint('hooked', { engine: 'containerd' });

  expect(recorded()).toEqual(['pre-dump THAWED', 'post-dump FROZEN images']);
});

test.each(['pre-dump', 'network-lock', 'post-dump'] as const)(
  'a hook that refuses at %s leaves the workload running and no checkpoint, and says why',
  async (event) => {
    const file = hook(event, 'echo not now; exit 1');
    const before = stack.localCheckpoints();

    await expect(stack.checkpoint('hooked')).rejects.toMatchObject({
      type: 'HookFailed',
      message: expect.stringContaining(
        `hook ${file} at ${event} ended with exit code 1: not now; the checkpoint is undone and the container runs on`,
      ) as string,
    });

    await countsOn();
    expect(stack.freezerOf('hooked')).toBe('THAWED');
    expect(stack.localCheckpoints()).toEqual(before);
  },
);

test('a hook that may only warn does, in the result of the checkpoint and of the restore', async () => {
  const late = hook('network-unlock', 'echo too late; exit 1');
  const resumed = hook('post-resume', 'exit 2');

  const result = await stack.checkpoint('hooked');
  const restored = await stack.restore(result.checkpointId, 'warned');

  expect(result.warnings).toEqual([`hook ${late} at network-unlock ended with exit code 1: too late`]);
  expect(restored.how).toBe('restored');
  expect(restored.warnings).toEqual([
    `hook ${late} at network-unlock ended with exit code 1: too late`,
    `hook ${resumed} at post-resume ended with exit code 2`,
  ]);
  await countsOn('warned');
  await stack.removeContainer('warned');
});

test('a hook that refuses a restore leaves no container, and the checkpoint restores without it', async () => {
  const { checkpointId } = await stack.checkpoint('hooked');

  for (const event of ['pre-restore', 'post-restore'] as const) {
    const file = hook(event, 'echo not here; exit 1');
    await expect(stack.restore(checkpointId, 'refused')).rejects.toMatchObject({
      type: 'HookFailed',
      message: expect.stringContaining(`hook ${file} at ${event} ended with exit code 1: not here`) as string,
    });
    expect(await stack.ctr('containers', 'ls', '-q')).not.toContain('refused');
    rmSync(file);
  }
  const restored = await stack.restore(checkpointId, 'refused');

  expect(restored.how).toBe('restored');
  await countsOn('refused');
  await stack.removeContainer('refused');
});

test('a hook that hangs in the freeze is ended at its limit, with what it started, and the workload runs on', async () => {
  hook('network-lock', `sleep 1000 & echo $! >${dir}/pid; wait`);
  const begun = performance.now();

  await expect(stack.checkpoint('hooked')).rejects.toMatchObject({
    type: 'HookFailed',
    message: expect.stringContaining(`was not done after ${TIMEOUT_MS} ms`) as string,
  });

  expect(performance.now() - begun).toBeGreaterThan(TIMEOUT_MS);
  await countsOn();
  await until('its end', () => readProcess(Number(readFileSync(join(dir, 'pid'), 'utf8'))) === undefined);
});

test('a freeze budget ends a hook before its own limit', async () => {
  hook('post-dump', 'exec sleep 1000');

  await expect(stack.checkpoint('hooked', { freezeBudgetMs: 1500 })).rejects.toMatchObject({
    type: 'FreezeBudgetExceeded',
  });

  await countsOn();
});

test('a cancellation ends a hook that runs, and undoes the checkpoint', async () => {
  hook('post-dump', `sleep 1000 & echo $! >${dir}/pid; wait`);
  const before = stack.localCheckpoints();

  const handle = await stack.startCheckpoint('hooked');
  await until('the hook', () => existsSync(join(dir, 'pid')) && readFileSync(join(dir, 'pid'), 'utf8') !== '');
  await handle.cancel();

  await expect(handle.result()).rejects.toMatchObject({ cause: { name: 'CancelledFailure' } });
  await until('its end', () => readProcess(Number(readFileSync(join(dir, 'pid'), 'utf8'))) === undefined);
  await countsOn();
  expect(stack.localCheckpoints()).toEqual(before);
});

test('a hook that others can write is a reason against the checkpoint, before anything is touched', async () => {
  const file = hook('post-dump', `touch ${dir}/ran`, 0o757);

  await expect(stack.checkpoint('hooked')).rejects.toMatchObject({
    type: 'Incompatible',
    message: expect.stringMatching(
      `a hook of post-dump is refused: ${file} can be written by others than root \\(mode 0757\\).*not touched`,
    ) as string,
  });

  expect(existsSync(join(dir, 'ran'))).toBe(false);
});
