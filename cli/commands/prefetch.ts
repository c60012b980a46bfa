/* `kybernate prefetch`: flags → PrefetchRequest → workflow `prefetch` → progress → what each node has now. */
import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import type { PrefetchedNode, PrefetchRequest, PrefetchResult } from '../../core/contract/prefetch.ts';
import { ERRORS, isErrorType } from '../../core/errors.ts';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { addHelpTexts, durationArgument, jsonOption, withoutUndefined } from '../options.ts';
import { createOutput, renderTable } from '../output.ts';
import { runOperation } from '../run-operation.ts';
import { formatBytes, formatDuration, formatRate } from '../units.ts';
import { checkRequest, type FlagNames } from '../validate.ts';

interface PrefetchFlags {
  readonly node?: readonly string[];
  readonly tier?: PrefetchRequest['tier'];
  readonly pin?: boolean;
  readonly pinFor?: number;
  readonly workflowId?: string;
  readonly detach?: boolean;
  readonly json?: boolean;
}

const FLAGS: FlagNames = {
  checkpointId: '<checkpoint>',
  nodes: '--node',
  tier: '--tier',
  pin: '--pin',
  'pin.expiresAfterMs': '--pin-for',
};

export function addPrefetchCommand(program: Command, cli: Cli): void {
  const command = program
    .command('prefetch')
    .summary('bring a checkpoint near before it is restored')
    .description(
      'Brings a checkpoint of the store to one or more nodes at once: its packs to a tier of their sidecars (ram, nvme), ' +
        'from a node that has them already or from the store, or its files to the disk from which a restore starts (local). ' +
        'What is there is not brought again. Nodes that fail are told; the others go on.',
    )
    .argument('<checkpoint>', 'checkpoint id, as `kybernate ls` shows it')
    .option('--node <node>', 'to this node; any number of times (default: this host)', nodeArgument)
    .addOption(new Option('--tier <tier>', 'where to (default: nvme)').choices(['ram', 'nvme', 'local']))
    .option('--pin', 'keep it in the tier until `kybernate tiers --unpin`')
    .option('--pin-for <duration>', 'keep it in the tier for so long', durationArgument)
    .option('--workflow-id <id>', 'workflow id, to make the call idempotent (default: made by the client)')
    .option('--detach', 'print the workflow id and do not wait')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate prefetch nightly', 'to the nvme tier of this host'],
      ['kybernate prefetch nightly --node worker-1 --node worker-2 --tier ram --pin-for 2h', 'before a drain'],
      ['kybernate prefetch nightly --node worker-3 --tier local', 'so that a restore there reads local files only'],
    ],
    exitCodes: exitCodesHelp([
      'CheckpointNotFound',
      'NodeUnavailable',
      'CheckpointCorrupt',
      'SignatureInvalid',
      'StorageUnavailable',
      'StorageDenied',
      'KeyUnavailable',
      'DiskFull',
      'OperationTerminated',
      'TemporalUnreachable',
      'Cancelled',
    ]),
  });
  command.action((checkpoint: string, flags: PrefetchFlags) => runPrefetch(cli, checkpoint, flags));
}

function nodeArgument(text: string, previous: readonly string[] = []): string[] {
  if (text === '') {
    throw new InvalidArgumentError('Give the name of a node.');
  }
  return [...previous, text];
}

async function runPrefetch(cli: Cli, checkpoint: string, flags: PrefetchFlags): Promise<void> {
  const output = createOutput(cli.streams, flags);
  const { prefetchInput } = await import('../../core/contract/prefetch.ts');
  const pin = flags.pinFor === undefined ? (flags.pin === true ? {} : undefined) : { expiresAfterMs: flags.pinFor };
  const nodes = flags.node ?? [cli.config().node];
  const request = await checkRequest(
    prefetchInput,
    withoutUndefined({ checkpointId: checkpoint, nodes, tier: flags.tier, pin }),
    FLAGS,
  );
  await runOperation(
    cli,
    (operations) => operations.prefetch(request, withoutUndefined({ workflowId: flags.workflowId })),
    {
      output,
      title: `prefetch of ${checkpoint} to ${nodes.join(', ')}`,
      detach: flags.detach,
      render: renderPrefetched,
      exitCode: exitCodeOf,
    },
  );
}

/** That of the first node that failed. */
function exitCodeOf({ nodes }: PrefetchResult): number | undefined {
  const failed = nodes.find((node) => node.outcome === 'failed');
  if (failed === undefined) {
    return undefined;
  }
  const { type } = failed.error;
  return ERRORS[isErrorType(type) ? type : 'Internal'].exitCode;
}

export function renderPrefetched(result: PrefetchResult): string {
  const table = renderTable(result.nodes, [
    { title: 'NODE', value: ({ node }) => node },
    { title: result.tier.toUpperCase(), value: outcomeText },
    { title: 'FROM', value: sourcesText },
    { title: 'TIME', value: timeText },
  ]);
  const failures = result.nodes.flatMap((node) =>
    node.outcome === 'failed' ? [`${node.node}: ${node.error.type}: ${node.error.message}`] : [],
  );
  return [table, ...failures].join('\n');
}

function outcomeText(node: PrefetchedNode): string {
  return node.outcome === 'failed' ? 'failed' : formatBytes(node.bytes);
}

function sourcesText(node: PrefetchedNode): string {
  if (node.outcome === 'failed') {
    return '';
  }
  const sources = Object.entries(node.from).map(([source, bytes]) => `${source} ${formatBytes(bytes)}`);
  const present = node.presentBytes === 0 ? [] : [`was there ${formatBytes(node.presentBytes)}`];
  return [...present, ...sources].join(', ');
}

function timeText(node: PrefetchedNode): string {
  if (node.outcome === 'failed') {
    return '';
  }
  const brought = node.bytes - node.presentBytes;
  const rate = brought > 0 && node.seconds > 0 ? `, ${formatRate(brought / node.seconds)}` : '';
  return `${formatDuration(node.seconds * 1000)}${rate}`;
}
