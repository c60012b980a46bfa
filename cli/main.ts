#!/usr/bin/env node
/* Entry of the program: the process, its environment and its streams; everything else is below `run`. */
import type { Cli } from './cli.ts';
import { readCliConfig } from './config.ts';
import { withDevDefaults } from './dev/defaults.ts';
import { run } from './program.ts';
import { createProcessTerminal } from './terminal.ts';

// Workers take only what they are given; `up` decides for itself.
const settled = ['worker', 'up', 'down', 'setup'].includes(process.argv[2] ?? '');
const env = settled ? process.env : withDevDefaults(process.env);
let exitCode: number | undefined;
const cli: Cli = {
  env,
  streams: process,
  terminal: createProcessTerminal(),
  config: () => readCliConfig(env),
  connect: async () => {
    const { connectOperations } = await import('./connect.ts');
    return connectOperations(env);
  },
  setExitCode: (code) => {
    exitCode = code;
  },
};

// `kybernate ls | head`: the reader has seen enough.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') {
    process.exit(0);
  }
  throw error;
});

const code = await run(process.argv.slice(2), cli);
// Ends what is still under way, such as the long poll for a result that nobody waits for any more. Nothing is lost:
// writes to terminals, files and pipes are synchronous on Linux.
process.exit(code === 0 ? (exitCode ?? 0) : code);
