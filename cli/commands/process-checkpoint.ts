/* `kybernate process checkpoint`: flags → CheckpointRequest with a process → workflow `checkpoint`. */
import type { Command } from 'commander';
import {
  addCaptureOptions,
  addStartOptions,
  CAPTURE_FLAGS,
  captureErrors,
  captureFields,
  type CaptureFlags,
  renderCaptured,
} from '../capture-options.ts';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { addHelpTexts, countArgument, withoutUndefined } from '../options.ts';
import { createOutput } from '../output.ts';
import { runOperation } from '../run-operation.ts';
import { checkRequest } from '../validate.ts';

interface ProcessCheckpointFlags extends CaptureFlags {
  readonly startTime?: number;
}

/** @param group the command `process` */
export function addProcessCheckpointCommand(group: Command, cli: Cli): void {
  const command = group
    .command('checkpoint')
    .summary('capture a running process with all below it')
    .description(
      'Captures a process of a node and all below it, and stores the checkpoint. It runs on as soon as it is captured, ' +
        'unless --after says otherwise; whatever fails, it runs on. What cannot be captured is refused before anything ' +
        'is touched. Files are not captured: a restore needs those that were open as they were.',
    )
    .argument('<pid>', 'root of the tree, as the node sees it', countArgument)
    .option(
      '--start-time <ticks>',
      'refuse another process that has the pid by now (`process analyze` tells it)',
      countArgument,
    );
  addStartOptions(addCaptureOptions(command, 'process'));
  addHelpTexts(command, {
    examples: [
      ['kybernate process checkpoint 4711', 'capture it, let it run on, store the checkpoint'],
      [
        'kybernate process checkpoint 4711 --after stop --durability local',
        'end it when the checkpoint is on this disk',
      ],
      ['kybernate process checkpoint $(pidof redis-server) --freeze-budget 1s --json', 'from a script'],
    ],
    exitCodes: exitCodesHelp(captureErrors('ProcessNotFound')),
  });
  command.action((pid: number, flags: ProcessCheckpointFlags) => runProcessCheckpoint(cli, pid, flags));
}

const FLAGS = {
  ...CAPTURE_FLAGS,
  process: '<pid>',
  'process.pid': '<pid>',
  'process.startTime': '--start-time',
  container: '<pid>',
};

async function runProcessCheckpoint(cli: Cli, pid: number, flags: ProcessCheckpointFlags): Promise<void> {
  const { checkpointInput } = await import('../../core/contract/checkpoint.ts');
  const request = await checkRequest(
    checkpointInput,
    withoutUndefined({
      node: flags.node ?? cli.config().node,
      process: withoutUndefined({ pid, startTime: flags.startTime }),
      ...captureFields(flags),
    }),
    FLAGS,
  );
  await runOperation(
    cli,
    (operations) => operations.checkpoint(request, withoutUndefined({ workflowId: flags.workflowId })),
    {
      output: createOutput(cli.streams, flags),
      title: `checkpoint of process ${pid} on ${request.node}`,
      detach: flags.detach,
      render: (result) =>
        renderCaptured(result, { kind: 'process', name: String(pid), restore: 'kybernate process restore' }),
    },
  );
}
