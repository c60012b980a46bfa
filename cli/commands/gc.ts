/* `kybernate gc`: starts the workflow `collectGarbage` and follows it. */
import type { Command } from 'commander';
import type { CollectGarbageResult, PackSum } from '../../core/contract/collect-garbage.ts';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { addHelpTexts, jsonOption, withoutUndefined } from '../options.ts';
import { createOutput, renderPairs } from '../output.ts';
import { runOperation } from '../run-operation.ts';
import { formatBytes } from '../units.ts';

interface GcFlags {
  readonly dryRun?: boolean;
  readonly workflowId?: string;
  readonly detach?: boolean;
  readonly json?: boolean;
}

export function addGcCommand(program: Command, cli: Cli): void {
  const command = program
    .command('gc')
    .summary('delete what no checkpoint of the store needs any more')
    .description(
      'Collects the garbage of the store: packs that no checkpoint names, and what uploads that died have left. Safe at ' +
        'any time, beside uploads, restores and other collections: it waits for those who may still need what it found. ' +
        'The control worker does it, on the store that is configured there.',
    )
    .option('--dry-run', 'tell what would go, and delete nothing')
    .option('--workflow-id <id>', 'workflow id, to make the call idempotent (default: made by the client)')
    .option('--detach', 'print the workflow id and do not wait')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate gc --dry-run', 'how much would become free?'],
      ['kybernate gc', 'delete it; Ctrl-C detaches or cancels'],
      ['kybernate gc --detach', 'let it wait for running uploads on its own'],
    ],
    exitCodes: exitCodesHelp([
      'CheckpointCorrupt',
      'StorageUnavailable',
      'StorageDenied',
      'KeyUnavailable',
      'NodeUnavailable',
      'CompensationFailed',
      'OperationTerminated',
      'TemporalUnreachable',
      'Cancelled',
    ]),
  });
  command.action((flags: GcFlags) => runGc(cli, flags));
}

async function runGc(cli: Cli, flags: GcFlags): Promise<void> {
  const output = createOutput(cli.streams, flags);
  await runOperation(
    cli,
    (operations) =>
      operations.collectGarbage({ dryRun: flags.dryRun === true }, withoutUndefined({ workflowId: flags.workflowId })),
    {
      output,
      title: flags.dryRun === true ? 'garbage of the store, dry run' : 'garbage of the store',
      detach: flags.detach,
      render: renderCollected,
    },
  );
}

export function renderCollected(result: CollectGarbageResult): string {
  const { dryRun, deleted, kept, young, objects, leftovers, unfinished } = result;
  const others = objects + leftovers.indexes + leftovers.lists + leftovers.halfMade;
  return renderPairs([
    ['store', `${result.store}: ${plural(result.checkpoints, 'checkpoint')} in ${packs(result.stored)}`],
    [
      dryRun ? 'would delete' : 'deleted',
      others === 0 ? packs(deleted) : `${packs(deleted)}; ${plural(others, 'other object')}`,
    ],
    ['kept', kept.packs === 0 ? undefined : `${packs(kept)}: needed again`],
    ['young', young.packs === 0 ? undefined : `${packs(young)}: of uploads that go on, or went on just now`],
    ['unfinished', unfinished ? 'yes: run it again' : undefined],
  ]);
}

function packs({ packs: number, bytes }: PackSum): string {
  return `${plural(number, 'pack')}, ${formatBytes(bytes)}`;
}

function plural(number: number, what: string): string {
  return `${String(number)} ${what}${number === 1 ? '' : 's'}`;
}
