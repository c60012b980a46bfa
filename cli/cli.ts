/* What every command is given: the outside world, so that a test runs a command without a process around it. */
import type { Command } from 'commander';
import type { CliConfig, Environment } from './config.ts';
import type { OutputStreams } from './output.ts';
import type { Operations } from './operation.ts';
import type { Terminal } from './terminal.ts';

export interface Cli {
  readonly env: Environment;
  readonly streams: OutputStreams;
  readonly terminal: Terminal;
  /** the effective user of this process */
  readonly isRoot: boolean;
  /** reads the environment when it is first needed: `--help` must not fail on a wrong variable */
  config(): CliConfig;
  /** connects to Temporal; loads its client only then */
  connect(): Promise<Operations>;
  /** exit code of a command that ends without an error, but not with 0 */
  setExitCode(code: number): void;
}

/** One file a command exports one of these. */
export type AddCommand = (program: Command, cli: Cli) => void;
