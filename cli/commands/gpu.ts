/* `kybernate gpu`: what has to do with GPUs and with no single checkpoint. */
import type { Command } from 'commander';
import type { Cli } from '../cli.ts';
import { addGpuRehearseCommand } from './gpu-rehearse.ts';

export function addGpuCommand(program: Command, cli: Cli): void {
  const group = program
    .command('gpu')
    .summary('GPUs: rehearse a checkpoint')
    .description('What has to do with GPUs and with no single checkpoint.')
    .helpCommand(false);
  addGpuRehearseCommand(group, cli);
}
