/* `kybernate tiers`: what the sidecar of this node has in its tiers, and which pins it keeps. */
import type { Command } from 'commander';
import type { CheckpointResidency, SegmentResidency, TierInfo, TiersReport } from '../../core/contract/tiers.ts';
import { KybernateError } from '../../core/errors.ts';
import { parseCheckpointId } from '../../core/ids.ts';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { addHelpTexts, jsonOption } from '../options.ts';
import { createOutput, renderPairs, renderTable } from '../output.ts';
import { askSidecar } from '../sidecar-client.ts';
import { formatBytes, formatTime } from '../units.ts';

interface TiersFlags {
  readonly checkpoint?: string;
  readonly file?: string;
  readonly unpin?: string;
  readonly json?: boolean;
}

export function addTiersCommand(program: Command, cli: Cli): void {
  const command = program
    .command('tiers')
    .summary('show what the tiers of this node hold')
    .description(
      'Shows the tiers of the sidecar of this node: budget, what is used and pinned. With --checkpoint how much of a ' +
        'checkpoint lies in which of them, with --file of one of its files. --unpin lets what `kybernate prefetch --pin` ' +
        'keeps be evicted again. Needs the rights of the sidecar or of root.',
    )
    .option('--checkpoint <id>', 'how much of this checkpoint is where')
    .option('--file <path>', 'how much of this file of it, for example criu/pages-1.img')
    .option('--unpin <id>', 'take the pins of this checkpoint away')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate tiers', 'budgets, use and pins'],
      ['kybernate tiers --checkpoint nightly --file criu/pages-1.img', 'would its memory be read from here?'],
      ['kybernate tiers --unpin nightly', 'its packs may be evicted again'],
    ],
    exitCodes: exitCodesHelp(['CheckpointNotFound', 'StorageUnavailable', 'StorageDenied']),
  });
  command.action((flags: TiersFlags) => runTiers(cli, flags));
}

async function runTiers(cli: Cli, flags: TiersFlags): Promise<void> {
  const output = createOutput(cli.streams, flags);
  const config = cli.config();
  if (flags.file !== undefined && flags.checkpoint === undefined) {
    throw new KybernateError('InvalidInput', '--file: give --checkpoint, too');
  }
  if (flags.unpin !== undefined) {
    const id = parseCheckpointId(flags.unpin);
    const answer = (await askSidecar(config, 'DELETE', `/v1/pins/${id}`)) as { readonly unpinned: readonly string[] };
    const { unpinned } = answer;
    output.result(answer, () =>
      unpinned.length === 0 ? `${id} was not pinned` : `${id} is no longer pinned in ${unpinned.join(' and ')}`,
    );
    return;
  }
  const query = new URLSearchParams();
  if (flags.checkpoint !== undefined) {
    query.set('checkpoint', parseCheckpointId(flags.checkpoint));
  }
  if (flags.file !== undefined) {
    query.set('file', flags.file);
  }
  const report = (await askSidecar(config, 'GET', `/v1/tiers?${query.toString()}`)) as TiersReport;
  output.result(report, () => renderReport(report, config.node));
}

/** How much of a checkpoint the sidecar of this node holds, and in which tiers. @throws as `askSidecar` */
export async function residencyOf(cli: Cli, checkpointId: string): Promise<CheckpointResidency | undefined> {
  const query = new URLSearchParams({ checkpoint: checkpointId });
  return ((await askSidecar(cli.config(), 'GET', `/v1/tiers?${query.toString()}`)) as TiersReport).residency;
}

export function renderReport({ tiers, residency, segment }: TiersReport, node: string): string {
  if (tiers.length === 0) {
    return `the sidecar of ${node} has no tiers: set KYBERNATE_TIER_NVME_DIR and KYBERNATE_TIER_NVME_BYTES`;
  }
  if (segment !== undefined) {
    return renderSegment(segment);
  }
  return residency === undefined ? renderTiers(tiers) : renderResidency(residency);
}

function renderTiers(tiers: readonly TierInfo[]): string {
  const table = renderTable(tiers, [
    { title: 'TIER', value: ({ tier }) => tier },
    { title: 'USED', value: ({ usedBytes }) => formatBytes(usedBytes), align: 'right' },
    { title: 'BUDGET', value: ({ budgetBytes }) => formatBytes(budgetBytes), align: 'right' },
    { title: 'PINNED', value: ({ pinnedBytes }) => formatBytes(pinnedBytes), align: 'right' },
    { title: 'PACKS', value: ({ packs }) => String(packs), align: 'right' },
    { title: 'DIRECTORY', value: ({ dir }) => dir },
  ]);
  const pins = tiers.flatMap(({ tier, pins: list }) =>
    list.map(({ checkpointId, expiresAt }) => {
      const until = expiresAt === undefined ? 'until it is unpinned' : `until ${formatTime(expiresAt)}`;
      return `pinned in ${tier}: ${checkpointId} ${until}`;
    }),
  );
  return [table, ...pins].join('\n');
}

function renderResidency({ checkpointId, packs, bytes, tiers }: CheckpointResidency): string {
  return renderPairs([
    [checkpointId, `${packs} packs, ${formatBytes(bytes)}`],
    ...tiers.map((tier): [string, string] => {
      const pinned =
        tier.pinned === undefined
          ? ''
          : tier.pinned === 'always'
            ? ', pinned'
            : `, pinned until ${formatTime(tier.pinned)}`;
      return [tier.tier, `${tier.packs} packs, ${formatBytes(tier.bytes)} (${share(tier.bytes, bytes)})${pinned}`];
    }),
  ]);
}

function renderSegment({ file, chunks, bytes, tiers }: SegmentResidency): string {
  return renderPairs([
    [file, `${chunks} stored chunks, ${formatBytes(bytes)}`],
    ...tiers.map((tier): [string, string] => [
      tier.tier,
      `${tier.chunks} chunks, ${formatBytes(tier.bytes)} (${share(tier.bytes, bytes)})`,
    ]),
  ]);
}

function share(part: number, whole: number): string {
  return whole === 0 ? 'nothing is needed' : `${Math.floor((part / whole) * 100)} %`;
}
