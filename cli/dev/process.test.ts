import { readFileSync, rmSync, writeFileSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import {
  endedAtStart,
  findDaemon,
  isAlive,
  ownedProcesses,
  readDaemons,
  readProcStat,
  startDaemon,
  stopDaemon,
  stopOwned,
} from './process.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-process-'));
});
afterEach(async () => {
  await stopOwned(dir);
  rmSync(dir, { recursive: true });
});

function start(name: string, script = 'exec sleep 1000') {
  return startDaemon(dir, { name, file: '/bin/sh', args: ['-c', script], env: { PATH: '/usr/bin:/bin' } });
}

describe('a daemon that ended at its start', () => {
  function ended(log: string) {
    const logFile = join(dir, 'a.log');
    writeFileSync(logFile, log);
    const { type, message, details } = endedAtStart({ name: 'sidecar', logFile });
    return { type, message, details };
  }

  it('has failed with the error that it told', () => {
    const text =
      '{"level":30}\nkybernate: Incompatible: older\n{"level":30}\nkybernate: InvalidInput: /d is of user 7:\n  two lines\n  workload: untouched\n  remedy:   chown it\n';

    expect(ended(text)).toEqual({
      type: 'InvalidInput',
      message: 'sidecar ended at its start: /d is of user 7:\n  two lines',
      details: { log: join(dir, 'a.log'), remedy: 'chown it' },
    });
  });

  it.each(['{"level":30}\nSegmentation fault\n', 'kybernate: InvalidInput: of an earlier start\n{"level":30}\n'])(
    'without a word of its own is shown with the end of its log: %j',
    (text) => {
      expect(ended(text)).toMatchObject({
        type: 'Internal',
        message: `sidecar ended at its start:\n${text.trimEnd()}`,
      });
    },
  );
});

describe('a daemon', () => {
  it('is started once: a second call gives the live one', async () => {
    const first = await start('a');
    const second = await start('a');

    expect(second).toEqual(first);
    expect(isAlive(first)).toBe(true);
  });

  it('that has ended is started again', async () => {
    const first = await start('a', 'true');
    await expect.poll(() => isAlive(first)).toBe(false);

    const second = await start('a');

    expect(second.pid).not.toBe(first.pid);
    expect(readDaemons(dir)).toEqual([second]);
  });

  it('keeps its facts for whoever finds it later', async () => {
    await startDaemon(dir, {
      name: 'a',
      file: '/bin/sleep',
      args: ['1000'],
      env: {},
      facts: { address: '127.0.0.1:1' },
    });

    expect(findDaemon(dir, 'a')?.facts).toEqual({ address: '127.0.0.1:1' });
  });

  it('that ignores SIGTERM is killed when its time is over', async () => {
    const record = await start('a', 'trap "" TERM; echo ready; while :; do sleep 0.1; done');
    await expect.poll(() => readFileSync(record.logFile, 'utf8')).toContain('ready');

    expect(await stopDaemon(dir, 'a', 100)).toBe(true);
    expect(isAlive(record)).toBe(false);
  });

  it('is forgotten, not stopped, when its pid belongs to another process by now', async () => {
    const record = await start('a');
    const file = join(dir, 'processes.json');
    writeFileSync(file, readFileSync(file, 'utf8').replace(`"${record.startTicks}"`, '"1"'));

    expect(await stopDaemon(dir, 'a')).toBe(false);
    expect(isAlive(record)).toBe(true);
    expect(readDaemons(dir)).toEqual([]);
  });

  it('that was never started is stopped without effect', async () => {
    expect(await stopDaemon(dir, 'nobody')).toBe(false);
  });

  it('whose program is missing is an error that says so', async () => {
    const run = startDaemon(dir, { name: 'a', file: '/nonexistent/program', args: [], env: {} });

    await expect(run).rejects.toThrow('cannot start a (/nonexistent/program)');
  });
});

it('a process that lost its record and its parent is found by the directory in its environment', async () => {
  // The shell ends at once; what it left has init as its parent.
  const shell = await start('a', 'sleep 1000 & exec true');
  await expect.poll(() => isAlive(shell)).toBe(false);
  rmSync(join(dir, 'processes.json'));
  await expect.poll(() => ownedProcesses(dir).length).toBe(1);

  expect(await stopOwned(dir)).toBe(1);
  expect(ownedProcesses(dir)).toEqual([]);
});

it('what was started below a directory belongs to it, what was started beside it does not', async () => {
  const below = join(dir, 'below');
  const beside = `${dir}-beside`;
  const options = { name: 'a', file: '/bin/sleep', args: ['1000'], env: {} };
  const inside = await startDaemon(below, options);
  const outside = await startDaemon(beside, options);

  await stopOwned(dir);

  expect([isAlive(inside), isAlive(outside)]).toEqual([false, true]);
  await stopDaemon(beside, 'a');
  rmSync(beside, { recursive: true });
});

it('readProcStat reads the fields behind a name with spaces and brackets', () => {
  const stat = readProcStat(process.pid);

  expect(stat?.parentPid).toBe(process.ppid);
  expect(stat?.startTicks).toMatch(/^\d+$/);
  expect(readProcStat(2 ** 22 + 1)).toBeUndefined();
});
