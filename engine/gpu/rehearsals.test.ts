import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { readProcess } from '../../native/proc/tree.ts';
import { hasPassedRehearsal, recordRehearsal } from './rehearsals.ts';

let runDir: string;
beforeEach(async () => {
  runDir = await mkdtemp(join(tmpdir(), 'kybernate-rehearsals-'));
});
afterEach(() => rm(runDir, { recursive: true }));

const self = { hostPid: process.pid, startTime: readProcess(process.pid)?.startTime ?? 0 };

it('a process has passed after it was recorded, twice or once', () => {
  expect(hasPassedRehearsal({ runDir }, self)).toBe(false);

  recordRehearsal({ runDir }, [self]);
  recordRehearsal({ runDir }, [self]);

  expect(hasPassedRehearsal({ runDir }, self)).toBe(true);
});

it('a later process of the same pid has not passed', () => {
  recordRehearsal({ runDir }, [self]);

  expect(hasPassedRehearsal({ runDir }, { ...self, startTime: self.startTime + 1 })).toBe(false);
});

it('processes that have ended are forgotten', async () => {
  const ended = { hostPid: self.hostPid, startTime: self.startTime + 1 };
  recordRehearsal({ runDir }, [ended]);

  recordRehearsal({ runDir }, [self]);

  expect(hasPassedRehearsal({ runDir }, ended)).toBe(false);
  expect(await readdir(join(runDir, 'rehearsals'))).toHaveLength(1);
});
