import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { defineConfig } from 'vitest/config';
import { LongestFirst } from './test/harness/longest-first.ts';

/*
 * unit: no root, no network, beside the sources. temporal: a real Temporal server, scripted activities.
 * system: root, real containerd, runc, CRIU, Temporal, S3. One fork at a time where real servers are shared: temporal has
 * one set of them, system one for each lane. Tests of the system wait most of the time: three lanes fill two processors.
 * kubernetes: one real cluster, in a network namespace that the caller makes (`unshare --net`).
 */
const SYSTEM_LANES = 3;
// Every process that a test starts finds what an earlier one has compiled: half the price of its start.
process.env['NODE_COMPILE_CACHE'] ??= join(import.meta.dirname, 'node_modules', '.cache', 'kybernate', 'node');
// The servers and programs in Go: a quarter of Temporal's time was the search for memory that is free again.
process.env['GOGC'] ??= '400';
// A shared CI machine may stall real servers for seconds: one second try there, and the report says so. None at a desk.
const retry = process.env['CI'] === 'true' ? 1 : 0;
// One thread collects the young heap, and seldom: the others of a test want their processor.
const execArgv = ['--single-threaded-gc', '--min-semi-space-size=16'];
const slow = {
  testTimeout: 120_000,
  hookTimeout: 180_000,
  teardownTimeout: 30_000,
  pool: 'forks' as const,
  retry,
  execArgv,
};

export default defineConfig({
  test: {
    sequence: { sequencer: LongestFirst },
    projects: [
      {
        test: {
          name: 'unit',
          // Some of them wait.
          maxWorkers: availableParallelism() + 1,
          // A process a file costs half as much again as all tests. They share modules, hence keep no state in them.
          isolate: false,
          retry,
          // Tests of a busy machine are slow, not wrong.
          testTimeout: 20_000,
          include: [
            '{core,native,engine,store,activities,workflows,workers,client,operator,shim,cli,tools}/**/*.test.ts',
          ],
          pool: 'forks',
          execArgv,
        },
      },
      {
        test: {
          name: 'temporal',
          include: ['test/temporal/**/*.test.ts'],
          globalSetup: ['test/temporal/global-setup.ts'],
          fileParallelism: false,
          sequence: { groupOrder: 1 },
          ...slow,
        },
      },
      {
        test: {
          name: 'system',
          include: ['test/system/**/*.test.ts'],
          globalSetup: ['test/system/global-setup.ts'],
          setupFiles: ['test/system/lane.ts'],
          maxWorkers: SYSTEM_LANES,
          sequence: { groupOrder: 2 },
          ...slow,
        },
      },
      {
        test: {
          name: 'kubernetes',
          include: ['test/kubernetes/**/*.test.ts'],
          globalSetup: ['test/kubernetes/global-setup.ts'],
          fileParallelism: false,
          sequence: { groupOrder: 3 },
          ...slow,
          testTimeout: 300_000,
        },
      },
    ],
  },
});
