import { spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  chmodSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CRIU_EVENTS, type HookSettings } from '../core/hooks.ts';
import { openHook } from './hook-file.ts';
import { createHooks, findHooks, planHooks, refusedHooks, type HookFacts, type Hooks } from './hooks.ts';
import { hookFindings } from './preflight/hooks.ts';

const silent = (): void => undefined;
const log = { debug: silent, info: silent, warn: silent, error: silent };
const uid = process.getuid?.() ?? 0;

let dir: string;
let abort: AbortController;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-hooks-'));
  abort = new AbortController();
});
afterEach(() => {
  rmSync(dir, { recursive: true });
});

/** The way down to the test's directory is not root's alone. */
const trust = (): { uid: number; from: string } => ({ uid, from: dir });

function put(path: string, text: string, mode = 0o700): string {
  const file = join(dir, path);
  mkdirSync(join(file, '..'), { recursive: true, mode: 0o700 });
  writeFileSync(file, text);
  chmodSync(file, mode);
  return file;
}

function settings(more: Partial<HookSettings> = {}): HookSettings {
  return { dir: join(dir, 'hooks.d'), timeoutMs: 10_000, policies: {}, ...more };
}

function facts(more: Partial<HookFacts> = {}): HookFacts {
  return {
    operation: 'checkpoint',
    kind: 'container',
    operationId: 'a'.repeat(32),
    checkpointId: 'ck-1',
    node: 'node-1',
    imageDir: '/var/lib/kybernate/checkpoints/checkpoint-ck-1/criu',
    container: { namespace: 'default', id: 'web' },
    pid: 4711,
    ...more,
  };
}

function hooks(more: Partial<HookSettings> = {}, of: Partial<HookFacts> = {}): Hooks {
  const known = facts(of);
  return createHooks(planHooks(settings(more), known), { signal: abort.signal, log }, known, trust());
}

function refusalOf(file: string): string {
  const opened = openHook(file, trust());
  return 'refusal' in opened ? opened.refusal : 'none';
}

describe('which hooks run', () => {
  it('is none in a directory that is not there, and in empty ones: the operation is the same', () => {
    expect(planHooks(settings(), facts())).toBeUndefined();
    CRIU_EVENTS.forEach((event) => mkdirSync(join(dir, 'hooks.d', event), { recursive: true }));

    expect(planHooks(settings(), facts())).toBeUndefined();
    expect(hooks().events).toEqual([]);
  });

  it('is those of the operation, in the order of their names, without what editors leave', () => {
    for (const name of ['20-b', '10-a.sh', '100-c', '.hidden', '10-a.sh~', '10-a.dpkg-old']) {
      put(`hooks.d/pre-dump/${name}`, '#!/bin/sh\n');
    }
    put('hooks.d/pre-restore/10-other', '#!/bin/sh\n');
    put('hooks.d/query-ext-files/10-process', '#!/bin/sh\n');

    const plan = planHooks(settings(), facts());

    expect(plan?.events).toEqual({
      'pre-dump': {
        policy: 'fail',
        files: ['10-a.sh', '100-c', '20-b'].map((name) => join(dir, 'hooks.d/pre-dump', name)),
      },
    });
  });

  it('tells of what lies there under no event', () => {
    const stray = put('hooks.d/10-stray', '#!/bin/sh\n');
    const misspelt = put('hooks.d/predump/10-a', '#!/bin/sh\n');

    expect(findHooks(settings()).strange).toEqual([stray, join(misspelt, '..')]);
    expect(hookFindings(settings(), facts(), trust())).toMatchObject([
      { code: 'hooks', severity: 'warning', message: expect.stringContaining('10-stray') as string },
      { code: 'hooks', severity: 'warning', message: expect.stringContaining('predump') as string },
    ]);
  });

  it('warns where CRIU does not heed a refusal, whatever the policy says', () => {
    put('hooks.d/pre-resume/10-a', '#!/bin/sh\nexit 1\n');
    put('hooks.d/network-unlock/10-a', '#!/bin/sh\nexit 1\n');
    const all = settings({ policies: { 'network-unlock': 'fail' } });

    const restore = planHooks(all, { operation: 'restore', kind: 'container' });
    const checkpoint = planHooks(all, { operation: 'checkpoint', kind: 'container' });

    expect(Object.values(restore?.events ?? {}).map(({ policy }) => policy)).toEqual(['warn', 'warn']);
    expect(checkpoint?.events['network-unlock']?.policy).toBe('fail');
  });

  it('is refused under the engine containerd, which does not tell of the moment', () => {
    put('hooks.d/network-lock/10-a', '#!/bin/sh\n');
    const use = { operation: 'checkpoint', kind: 'container', engine: 'containerd' } as const;

    expect(hookFindings(settings(), use, trust())).toMatchObject([{ severity: 'error' }]);
    expect(hookFindings(settings({ policies: { 'network-lock': 'warn' } }), use, trust())).toMatchObject([
      { severity: 'warning' },
    ]);
    expect(hookFindings(settings(), { ...use, engine: 'runc' }, trust())).toEqual([]);
  });
});

describe('a hook is refused', () => {
  it('when another than root owns it, its directory or one above', () => {
    const file = put('hooks.d/pre-dump/10-a', '#!/bin/sh\n');

    const opened = openHook(file, { uid: uid + 1, from: dir });

    expect(opened).toEqual({ refusal: `${dir} is owned by uid ${uid}: chown root ${dir}` });
  });

  it.each([0o720, 0o702, 0o777])('when others can write it (mode %o)', (mode) => {
    const file = put('hooks.d/pre-dump/10-a', '#!/bin/sh\n', mode);

    expect(refusalOf(file)).toBe(
      `${file} can be written by others than root (mode 0${mode.toString(8)}): chmod go-w ${file}`,
    );
  });

  it.each([
    ['hooks.d/pre-dump', 0o770],
    ['hooks.d', 0o707],
    ['.', 0o1777],
  ])('when others can write the directory %s above it', (above, mode) => {
    const file = put('hooks.d/pre-dump/10-a', '#!/bin/sh\n');
    chmodSync(join(dir, above), mode);

    expect(refusalOf(file)).toContain(`${join(dir, above)} can be written by others than root`);
  });

  it('when it, or a directory above, is a symbolic link', () => {
    const real = put('real/10-a', '#!/bin/sh\n');
    mkdirSync(join(dir, 'hooks.d/pre-dump'), { recursive: true, mode: 0o700 });
    symlinkSync(real, join(dir, 'hooks.d/pre-dump/10-a'));
    symlinkSync(join(real, '..'), join(dir, 'hooks.d/post-dump'));

    expect(refusalOf(join(dir, 'hooks.d/pre-dump/10-a'))).toContain('pre-dump/10-a is a symbolic link');
    expect(refusalOf(join(dir, 'hooks.d/post-dump/10-a'))).toContain('hooks.d/post-dump is a symbolic link');
  });

  it('when it is a directory, not executable, or gone', () => {
    mkdirSync(join(dir, 'hooks.d/pre-dump/10-dir'), { recursive: true, mode: 0o700 });
    const plain = put('hooks.d/pre-dump/20-plain', '#!/bin/sh\n', 0o600);

    expect(refusalOf(join(dir, 'hooks.d/pre-dump/10-dir'))).toContain('is no regular file');
    expect(refusalOf(plain)).toBe(`${plain} is not executable: chmod u+x ${plain}, or take it away`);
    expect(refusalOf(join(dir, 'hooks.d/pre-dump/30-gone'))).toContain('is not there any more');
  });

  it.each([
    ['#!/no/such/shell\n', '"/no/such/shell"'],
    ['#!/usr/bin/env no-such-program\n', '"no-such-program"'],
    ['#!/bin/sh\r\necho\r\n', String.raw`"/bin/sh\r"`],
  ])('when its interpreter is missing: %j', (text, missing) => {
    expect(refusalOf(put('hooks.d/pre-dump/10-a', text))).toContain(`its interpreter ${missing} is not there`);
  });

  it('at the plan, and with the policy warn a warning tells so', () => {
    const file = put('hooks.d/pre-dump/10-a', '#!/bin/sh\n', 0o722);
    const warn = settings({ policies: { 'pre-dump': 'warn' } });

    expect(refusedHooks(planHooks(settings(), facts()), trust())).toMatchObject([{ event: 'pre-dump', path: file }]);
    expect(hookFindings(settings(), facts(), trust())).toMatchObject([{ code: 'hooks', severity: 'error' }]);
    expect(hookFindings(warn, facts(), trust())).toMatchObject([{ code: 'hooks', severity: 'warning' }]);
  });
});

describe('a hook that runs', () => {
  it('inherits the documented variables and nothing else', async () => {
    const file = put('hooks.d/pre-dump/10-a', `#!/bin/sh\nexec env >${dir}/env\n`);
    process.env['AWS_SECRET_ACCESS_KEY'] ??= 'of the test';

    await hooks().onEvent({ name: 'pre-dump', pid: 0 });

    const lines = readFileSync(join(dir, 'env'), 'utf8').trim().split('\n');
    // sh adds its own.
    const given: Record<string, string> = Object.fromEntries(
      lines.filter((line) => !/^(?:PWD|_|SHLVL|OLDPWD)=/.test(line)).map((line) => line.split('=') as [string, string]),
    );
    const guide = readFileSync(new URL('../docs/hooks.md', import.meta.url), 'utf8');
    const section = guide.slice(guide.indexOf('## What a hook is given'), guide.indexOf('## What becomes of it'));
    const documented = section.split('\n').flatMap((line) => (line.split('|')[1] ?? '').match(/[A-Z_]{4,}/g) ?? []);
    const atTimes = ['KYBERNATE_PTS_MASTER_FD', 'TRACEPARENT'];
    expect([...Object.keys(given), ...atTimes].sort()).toEqual(documented.sort());
    expect(given).toEqual({
      PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
      KYBERNATE_EVENT: 'pre-dump',
      KYBERNATE_HOOK: file,
      KYBERNATE_HOOK_TIMEOUT_MS: '10000',
      KYBERNATE_OPERATION: 'checkpoint',
      KYBERNATE_OPERATION_ID: 'a'.repeat(32),
      KYBERNATE_CHECKPOINT_ID: 'ck-1',
      KYBERNATE_KIND: 'container',
      KYBERNATE_CONTAINER: 'web',
      KYBERNATE_CONTAINER_NAMESPACE: 'default',
      KYBERNATE_NODE: 'node-1',
      KYBERNATE_PID: '4711',
      KYBERNATE_IMAGE_DIR: '/var/lib/kybernate/checkpoints/checkpoint-ck-1/criu',
      CRTOOLS_SCRIPT_ACTION: 'pre-dump',
      CRTOOLS_IMAGE_DIR: '/var/lib/kybernate/checkpoints/checkpoint-ck-1/criu',
      CRTOOLS_INIT_PID: '4711',
    });
  });

  it('gets the pid that CRIU tells, the terminal of orphan-pts-master, and no empty variables', async () => {
    put(
      'hooks.d/orphan-pts-master/10-a',
      `#!/bin/sh\necho "$KYBERNATE_PID $KYBERNATE_PTS_MASTER_FD \${KYBERNATE_CHECKPOINT_ID-unset}"\nread -r text <&4 && echo "$text"\nexit 1\n`,
    );
    const terminal = put('terminal', 'from the terminal\n');
    const opened = openHook(terminal, trust());
    const { checkpointId: _none, ...bare } = facts({ operation: 'restore', kind: 'process' });

    const created = createHooks(planHooks(settings(), bare), { signal: abort.signal, log }, bare, trust());
    const run = created.onEvent({ name: 'orphan-pts-master', pid: 12, ...('fd' in opened ? { fd: opened.fd } : {}) });

    await expect(run).rejects.toThrow('12 4 unset | from the terminal');
  });

  it('is the file that was checked, a program or a script, and its name is a variable', async () => {
    put('hooks.d/pre-dump/10-a', `#!/bin/bash\necho "$KYBERNATE_HOOK $0" >${dir}/said\n`);

    await hooks().onEvent({ name: 'pre-dump' });

    expect(readFileSync(join(dir, 'said'), 'utf8')).toBe(`${dir}/hooks.d/pre-dump/10-a /proc/self/fd/3\n`);
  });

  it('refuses with what it printed, and those after it do not run', async () => {
    put('hooks.d/pre-dump/10-a', '#!/bin/sh\necho looked\necho "not now" >&2\nexit 3\n');
    put('hooks.d/pre-dump/20-b', `#!/bin/sh\ntouch ${dir}/ran\n`);
    const logFile = join(dir, 'hooks.log');

    const run = hooks({}, { logFile }).onEvent({ name: 'pre-dump' });

    await expect(run).rejects.toMatchObject({
      type: 'HookFailed',
      message: `hook ${dir}/hooks.d/pre-dump/10-a at pre-dump ended with exit code 3: looked | not now; the checkpoint is undone and the container runs on`,
    });
    expect(existsSync(join(dir, 'ran'))).toBe(false);
    expect(readFileSync(logFile, 'utf8')).toMatch(
      /^pre-dump .*10-a: ended with exit code 3, \d+ ms\nlooked\nnot now\n$/,
    );
  });

  it('that fails under the policy warn is a warning, and the next one runs', async () => {
    put('hooks.d/pre-dump/10-a', '#!/bin/sh\nkill -9 $$\n');
    put('hooks.d/pre-dump/20-b', `#!/bin/sh\ntouch ${dir}/ran\n`);

    const created = hooks({ policies: { 'pre-dump': 'warn' } });
    await created.onEvent({ name: 'pre-dump' });

    expect(created.warnings).toEqual([expect.stringContaining('was ended by SIGKILL')]);
    expect(existsSync(join(dir, 'ran'))).toBe(true);
  });

  it('is checked again when it runs', async () => {
    const file = put('hooks.d/pre-dump/10-a', '#!/bin/sh\n');
    const created = hooks();
    chmodSync(file, 0o722);

    await expect(created.onEvent({ name: 'pre-dump' })).rejects.toThrow(/is refused: .* can be written by others/);
  });

  it('is ended at its limit, with what it has started', async () => {
    put('hooks.d/pre-dump/10-a', `#!/bin/sh\nsleep 1000 & echo $! >${dir}/pid\nwait\n`);
    const begun = performance.now();

    const run = hooks({ timeoutMs: 300 }).onEvent({ name: 'pre-dump' });

    await expect(run).rejects.toThrow('was not done after 300 ms and was ended');
    expect(performance.now() - begun).toBeLessThan(5000);
    await gone(Number(readFileSync(join(dir, 'pid'), 'utf8')));
  });

  it('of a restore dies with whoever runs it', async () => {
    put('hooks.d/pre-restore/10-a', `#!/bin/sh\necho $$ >${dir}/pid\nexec sleep 1000\n`);
    const known = facts({ operation: 'restore' });
    const call = [planHooks(settings(), known), known, trust()].map((value) => JSON.stringify(value));
    const program = `
      import { createHooks } from ${JSON.stringify(new URL('hooks.ts', import.meta.url).href)};
      const log = { debug() {}, info() {}, warn() {}, error() {} };
      const op = { signal: new AbortController().signal, log };
      await createHooks(${call[0]}, op, ${call[1]}, ${call[2]}).onEvent({ name: 'pre-restore' });`;
    const runner = spawn(process.execPath, ['--input-type=module', '--eval', program], { stdio: 'ignore' });
    while (!existsSync(join(dir, 'pid')) || readFileSync(join(dir, 'pid'), 'utf8') === '') {
      await sleep(5);
    }

    runner.kill('SIGKILL');

    await gone(Number(readFileSync(join(dir, 'pid'), 'utf8')));
  });

  it('takes with it what it left in the background, and is not waited for it', async () => {
    put('hooks.d/pre-dump/10-a', `#!/bin/sh\nsleep 1000 & echo $! >${dir}/pid\nexit 0\n`);

    await hooks().onEvent({ name: 'pre-dump' });

    await gone(Number(readFileSync(join(dir, 'pid'), 'utf8')));
  });

  it('is ended by a cancellation, whose reason is thrown', async () => {
    put('hooks.d/pre-dump/10-a', `#!/bin/sh\nsleep 1000 & echo $! >${dir}/pid\nwait\n`);
    const reason = new Error('cancelled');

    const run = hooks({ policies: { 'pre-dump': 'warn' } }).onEvent({ name: 'pre-dump' });
    while (!existsSync(join(dir, 'pid')) || readFileSync(join(dir, 'pid'), 'utf8') === '') {
      await sleep(5);
    }
    abort.abort(reason);

    await expect(run).rejects.toBe(reason);
    await gone(Number(readFileSync(join(dir, 'pid'), 'utf8')));
  });
});

async function gone(pid: number): Promise<void> {
  while (existsSync(`/proc/${pid}`) && !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))) {
    await sleep(5);
  }
}
