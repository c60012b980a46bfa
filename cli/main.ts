#!/usr/bin/env node
/* Entry of the program: the process, its environment and its streams; everything else is below `run`. */
import { DRIVER_THREADS } from '../core/gpu/driver-threads.ts';
import { exitNow } from '../native/exit-now.ts';
import type { Cli } from './cli.ts';
import { readCliConfig } from './config.ts';
import { devDefaults } from './dev/defaults.ts';
import { run } from './program.ts';
import { createProcessTerminal } from './terminal.ts';
import { span, withinSpan } from '../core/spans.ts';
import { startTracing, traceparentOf } from '../workers/tracing.ts';

// Workers take only what they are given; `up` decides for itself. Into the process, since the SDK of S3 reads its keys there.
if (!['worker', 'sidecar', 'up', 'down', 'setup'].includes(process.argv[2] ?? '')) {
  Object.assign(process.env, devDefaults(process.env));
}
// A call of the GPU driver occupies a thread of libuv's pool for as long as the driver takes, one a process of a container,
// and files are read by the same threads. The pool is made when it is first used: nothing imported above does that.
if (['worker', 'runner', 'guard', 'gpu'].includes(process.argv[2] ?? '')) {
  process.env['UV_THREADPOOL_SIZE'] ??= DRIVER_THREADS;
}
// Workers have traces of their own.
const isWorker = ['worker', 'sidecar', 'runner', 'guard'].includes(process.argv[2] ?? '');
const tracing = await startTracing({ service: 'kybernate', env: isWorker ? {} : process.env });
let exitCode: number | undefined;
const cli: Cli = {
  env: process.env,
  streams: process,
  terminal: createProcessTerminal(),
  isRoot: process.geteuid?.() === 0,
  config: () => readCliConfig(process.env),
  connect: async () => {
    const { connectOperations } = await import('./connect.ts');
    return connectOperations(process.env, tracing);
  },
  setExitCode: (code) => {
    exitCode = code;
  },
};

// `kybernate ls | head`: the reader has seen enough.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (process.stdout.listenerCount('error') > 1) {
    // Who writes an archive listens, too, and cleans up first: a lease that is left keeps the checkpoint for an hour.
    return;
  }
  if (error.code === 'EPIPE') {
    process.exit(0);
  }
  throw error;
});

const code = await withinSpan(traceparentOf(process.env), () =>
  span(`kybernate ${process.argv[2] ?? ''}`.trimEnd(), {}, () => run(process.argv.slice(2), cli)),
);
await tracing.close();
// Ends what is still under way, such as the long poll for a result that nobody waits for any more. Nothing is lost:
// writes to terminals, files and pipes are synchronous on Linux. Nor does it wait for a GPU driver that hangs.
exitNow(code === 0 ? (exitCode ?? 0) : code);
