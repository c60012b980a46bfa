/* `kybernate repair`: starts the workflow `repairCheckpoint` and follows it. */
import { Option } from 'commander';
import type { Command } from 'commander';
import type { RepairRequest, RepairResult } from '../../core/contract/verify.ts';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { addHelpTexts, jsonOption, withoutUndefined } from '../options.ts';
import { createOutput } from '../output.ts';
import { renderCopies } from '../render-copies.ts';
import { runOperation } from '../run-operation.ts';
import { formatBytes } from '../units.ts';
import { checkRequest } from '../validate.ts';
import { COPY_FLAGS } from './verify.ts';

export interface RepairFlags {
  readonly where?: RepairRequest['where'];
  readonly node?: string;
  readonly workflowId?: string;
  readonly detach?: boolean;
  readonly json?: boolean;
}

export function addRepairCommand(program: Command, cli: Cli): void {
  const command = program
    .command('repair')
    .summary('make a damaged copy of a checkpoint whole from another one')
    .description(
      'Reads every byte of the copy in the store and of the copy on a node, and makes what is damaged whole from the ' +
        'other one: the store first, then the node. Fails, naming what is lost, when a chunk is whole nowhere.',
    )
    .argument('<checkpoint>', 'checkpoint id, as `kybernate ls` shows it')
    .addOption(
      new Option('--where <place>', 'repair only this copy, or make it where it is missing (default: both)').choices([
        'store',
        'node',
        'both',
      ]),
    )
    .option('--node <name>', 'node with the other copy (default: KYBERNATE_NODE, or the host name)')
    .option('--workflow-id <id>', 'workflow id, to make the call idempotent (default: made by the client)')
    .option('--detach', 'print the workflow id and do not wait')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate repair nightly', 'whatever is damaged'],
      ['kybernate repair nightly --where node --node worker-4', 'bring it to worker-4, or make its copy whole'],
    ],
    exitCodes: exitCodesHelp([
      'CheckpointNotFound',
      'CheckpointCorrupt',
      'SignatureInvalid',
      'NodeUnavailable',
      'StorageUnavailable',
      'StorageDenied',
      'KeyUnavailable',
      'DiskFull',
      'OperationTerminated',
      'TemporalUnreachable',
      'Cancelled',
    ]),
  });
  command.action((checkpoint: string, flags: RepairFlags) => runRepair(cli, checkpoint, flags));
}

async function runRepair(cli: Cli, checkpoint: string, flags: RepairFlags): Promise<void> {
  const output = createOutput(cli.streams, flags);
  const { repairInput } = await import('../../core/contract/verify.ts');
  const wish = { checkpointId: checkpoint, node: flags.node ?? cli.config().node, where: flags.where };
  const request = await checkRequest(repairInput, withoutUndefined(wish), COPY_FLAGS);
  await runOperation(
    cli,
    (operations) => operations.repair(request, withoutUndefined({ workflowId: flags.workflowId })),
    {
      output,
      title: `repair of ${request.checkpointId} on ${request.node}`,
      detach: flags.detach,
      render: renderRepair,
    },
  );
}

export function renderRepair({ after, store, nodeCopy }: RepairResult): string {
  const packs = store?.markedPacks.length ?? 0;
  const done = [
    ...(store === undefined
      ? []
      : [
          `store: ${formatBytes(store.sentBytes)} sent again, ${String(packs)} damaged ${packs === 1 ? 'pack' : 'packs'} ` +
            `left behind, ${String(store.restoredPacks.length)} put again from a tier, ${String(store.rewrittenIndexes.length)} copies of indexes written anew`,
        ]),
    ...(nodeCopy === undefined ? [] : [`node: ${formatBytes(nodeCopy.fetchedBytes)} fetched to ${nodeCopy.localPath}`]),
  ];
  return [done.length === 0 ? 'nothing was damaged' : done.join('\n'), renderCopies(after, 'full')].join('\n\n');
}
