/* The process, its environment and its streams; everything else is below `run`. */
import { exitNow } from '../native/exit-now.ts';
import type { Cli } from './cli.ts';
import { readCliConfig } from './config.ts';
import { devDefaults } from './dev/defaults.ts';
import { run } from './program.ts';
import { createProcessTerminal } from './terminal.ts';
import { span, withinSpan } from '../core/spans.ts';
import { startTracing, traceparentOf } from '../workers/tracing.ts';

/** Runs the command of this process's arguments and ends the process. @param env that of the process: it is completed */
export async function start(env: NodeJS.ProcessEnv): Promise<never> {
  // Workers take only what they are given; `up` decides for itself. Into the process, since the SDK of S3 reads its keys there.
  if (!['worker', 'sidecar', 'up', 'down', 'setup'].includes(process.argv[2] ?? '')) {
    Object.assign(env, devDefaults(env));
  }
  // Workers have traces of their own.
  const isWorker = ['worker', 'sidecar', 'runner', 'guard'].includes(process.argv[2] ?? '');
  const tracing = await startTracing({ service: 'kybernate', env: isWorker ? {} : env });
  let exitCode: number | undefined;
  const cli: Cli = {
    env,
    streams: process,
    terminal: createProcessTerminal(),
    isRoot: process.geteuid?.() === 0,
    config: () => readCliConfig(env),
    connect: async () => {
      const { connectOperations } = await import('./connect.ts');
      return connectOperations(env, tracing);
    },
    setExitCode: (code) => {
      exitCode = code;
    },
  };
  endWithReader();
  const code = await withinSpan(traceparentOf(env), () =>
    span(`kybernate ${process.argv[2] ?? ''}`.trimEnd(), {}, () => run(process.argv.slice(2), cli)),
  );
  await tracing.close();
  // Ends what is still under way, such as the long poll for a result that nobody waits for any more. Nothing is lost:
  // writes to terminals, files and pipes are synchronous on Linux. Nor does it wait for a GPU driver that hangs.
  return exitNow(code === 0 ? (exitCode ?? 0) : code);
}

/** `kybernate ls | head`: the reader has seen enough. */
function endWithReader(): void {
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
}
