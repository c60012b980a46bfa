/* `kybernate ls`: the checkpoints of this node and of the store. */
import { Option, type Command } from 'commander';
import type { TierShare } from '../../core/contract/tiers.ts';
import { durabilityOf, listAll, mergeElsewhere } from '../all-checkpoints.ts';
import type { ListedCheckpoint } from '../all-checkpoints.ts';
import { addFilterOptions, matches } from '../checkpoint-filter.ts';
import type { FilterFlags } from '../checkpoint-filter.ts';
import type { Cli } from '../cli.ts';
import { capturedName } from '../container-argument.ts';
import { exitCodesHelp, reportOf } from '../exit-codes.ts';
import { addHelpTexts, countArgument, jsonOption } from '../options.ts';
import { createOutput, renderTable, terminalWidth } from '../output.ts';
import type { Operations } from '../operation.ts';
import type { Column } from '../output.ts';
import { formatAge, formatBytes, formatTime } from '../units.ts';

const ORDERS = {
  created: (left, right) => right.metadata.createdAt.localeCompare(left.metadata.createdAt),
  size: (left, right) => right.metadata.sizes.totalBytes - left.metadata.sizes.totalBytes,
  unique: (left, right) => (right.remote?.uniqueBytes ?? 0) - (left.remote?.uniqueBytes ?? 0),
  id: (left, right) => (left.checkpointId < right.checkpointId ? -1 : 1),
} as const satisfies Record<string, (left: ListedCheckpoint, right: ListedCheckpoint) => number>;

interface LsFlags extends FilterFlags {
  readonly store?: string;
  readonly sort: keyof typeof ORDERS;
  readonly limit?: number;
  readonly tiers?: boolean;
  readonly allNodes?: boolean;
  readonly json?: boolean;
}

export function addLsCommand(program: Command, cli: Cli): void {
  const command = program
    .command('ls')
    .summary('list checkpoints, on this node, in the store and on other nodes')
    .description(
      'Lists the checkpoints on this node (below KYBERNATE_STATE_DIR) and in the store, newest first; --all-nodes adds those ' +
        'that only other nodes have. Half-made ones are ' +
        'not checkpoints and are not listed. "pending" is on this node and still on its way to the store; "verified" was ' +
        'read back from there; "unknown" is on a node, and the store could not be read. UNIQUE is what its removal would free in the store: packs that no other checkpoint has. ' +
        'Columns for which a terminal is too narrow are left out; a pipe and --json have all.',
    );
  addFilterOptions(command)
    .addOption(
      new Option('--sort <by>', 'newest, largest or first in the alphabet first')
        .choices(Object.keys(ORDERS))
        .default('created'),
    )
    .option('--limit <number>', 'at most so many', countArgument)
    .option('--all-nodes', 'also what only other nodes have: asks their workers, and names those that do not answer')
    .option('--tiers', 'also what the sidecar of this node holds of each')
    .option('--store <url>', 'file:///dir or s3://bucket[/prefix] (default: KYBERNATE_STORE)')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate ls', 'everything'],
      ['kybernate ls --label team=search --older-than 7d', 'what could go'],
      ['kybernate ls --sort unique --limit 10', 'what takes most room'],
      ['kybernate ls --all-nodes --older-than 1d', 'also copies that no store has, on any node'],
      ['kybernate ls --store s3://checkpoints --json', 'another store, for a program'],
    ],
    exitCodes: exitCodesHelp(['StorageUnavailable', 'StorageDenied', 'TemporalUnreachable']),
  });
  command.action((flags: LsFlags) => runLs(cli, flags));
}

async function runLs(cli: Cli, flags: LsFlags): Promise<void> {
  const output = createOutput(cli.streams, flags);
  const config = cli.config();
  const nowMs = Date.now();
  const { checkpoints: near, problems: found, storeError } = await listAll(config, flags.store ?? config.store);
  const problems = [...found];
  const everywhere = flags.allNodes === true ? await withOtherNodes(cli, near, problems) : near;
  const checkpoints =
    storeError === undefined ? everywhere : everywhere.map((one) => ({ ...one, storeUnread: true as const }));
  const fitting = checkpoints.filter((one) => matches(flags, one, nowMs)).sort(ORDERS[flags.sort]);
  const shown = fitting.slice(0, flags.limit ?? fitting.length);
  const tiers = flags.tiers === true ? await tiersOf(cli, shown) : undefined;
  output.result({ checkpoints: shown.map((one) => jsonRow(one, tiers)), problems }, () =>
    shown.length === 0
      ? 'no checkpoints'
      : renderList(shown, nowMs, { ...(tiers === undefined ? {} : { tiers }), width: terminalWidth(cli.streams) }),
  );
  if (shown.length < fitting.length) {
    output.note(`note: ${fitting.length - shown.length} more`);
  }
  for (const problem of problems) {
    output.note(`note: ${problem}`);
  }
  if (storeError !== undefined) {
    // What there is has been shown; that it is not all is said by the exit code.
    cli.setExitCode(reportOf(storeError).exitCode);
  }
}

/** What other nodes have, too; nodes that do not answer are told in `problems`, and the list goes without them. */
async function withOtherNodes(
  cli: Cli,
  near: readonly ListedCheckpoint[],
  problems: string[],
): Promise<readonly ListedCheckpoint[]> {
  const { askNodes } = await import('../other-nodes.ts');
  const { node: here } = cli.config();
  let operations: Operations;
  try {
    operations = await cli.connect();
  } catch (error) {
    const { message, exitCode } = reportOf(error);
    problems.push(`what other nodes have is not shown: ${message}`);
    cli.setExitCode(exitCode);
    return near;
  }
  try {
    const names = new Set([...(await operations.nodes()), ...near.map(({ metadata }) => metadata.node.name)]);
    names.delete(here);
    return mergeElsewhere(near, await askNodes(operations, [...names].sort(), problems));
  } finally {
    await operations.close();
  }
}

type Tiers = ReadonlyMap<string, readonly TierShare[]>;

/** @throws StorageUnavailable no sidecar answers; StorageDenied its socket is another user's */
async function tiersOf(cli: Cli, checkpoints: readonly ListedCheckpoint[]): Promise<Tiers> {
  const { residencyOf } = await import('./tiers.ts');
  const tiers = new Map<string, readonly TierShare[]>();
  for (const { checkpointId, remote } of checkpoints) {
    if (remote !== undefined) {
      tiers.set(checkpointId, (await residencyOf(cli, checkpointId))?.tiers ?? []);
    }
  }
  return tiers;
}

export function renderList(
  checkpoints: readonly ListedCheckpoint[],
  nowMs: number,
  { tiers, width }: { readonly tiers?: Tiers; readonly width?: number | undefined } = {},
): string {
  const columns: Array<Column<ListedCheckpoint>> = [
    { title: 'CHECKPOINT', value: (row) => row.checkpointId },
    { title: 'CONTAINER', value: ({ metadata }) => capturedName(metadata.container) },
    { title: 'NODE', value: ({ metadata }) => metadata.node.name, leaves: 4 },
    { title: 'CREATED (UTC)', value: ({ metadata }) => formatTime(metadata.createdAt), leaves: 1 },
    { title: 'AGE', value: ({ metadata }) => formatAge(nowMs - Date.parse(metadata.createdAt)), align: 'right' },
    { title: 'SIZE', value: ({ metadata }) => formatBytes(metadata.sizes.totalBytes), align: 'right', leaves: 5 },
    {
      title: 'UNIQUE',
      value: ({ remote }) => (remote === undefined ? '-' : formatBytes(remote.uniqueBytes)),
      align: 'right',
      leaves: 3,
    },
    { title: 'DURABILITY', value: durabilityOf },
    { title: 'HERE', value: (row) => (row.local === undefined ? 'no' : 'yes') },
    ...(checkpoints.every(({ elsewhere }) => elsewhere === undefined)
      ? []
      : [
          {
            title: 'ELSEWHERE',
            value: ({ elsewhere = [] }: ListedCheckpoint) => elsewhere.map(({ node }) => node).join(',') || '-',
          },
        ]),
    ...(tiers === undefined ? [] : [{ title: 'TIERS', value: (row: ListedCheckpoint) => tiersText(tiers, row) }]),
    {
      title: 'LABELS',
      value: ({ metadata }) =>
        Object.entries(metadata.labels)
          .map(([name, value]) => `${name}=${value}`)
          .join(','),
      leaves: 2,
    },
  ];
  return renderTable(checkpoints, columns, width);
}

/** `ram 40 %,nvme 100 %`: of what it has in the store. */
function tiersText(tiers: Tiers, { checkpointId, remote }: ListedCheckpoint): string {
  const whole = remote?.storedBytes ?? 0;
  const held = (tiers.get(checkpointId) ?? []).filter(({ bytes }) => bytes > 0);
  return held.length === 0
    ? '-'
    : held.map(({ tier, bytes }) => `${tier} ${String(Math.floor((bytes * 100) / Math.max(whole, 1)))} %`).join(',');
}

/** One checkpoint in the JSON of `ls`. */
export function jsonRow(checkpoint: ListedCheckpoint, tiers?: Tiers): Record<string, unknown> {
  const { metadata, local, remote, elsewhere, checkpointId } = checkpoint;
  return {
    checkpointId,
    container: { namespace: metadata.container.namespace, id: metadata.container.id },
    ...(metadata.container.pod === undefined ? {} : { pod: metadata.container.pod }),
    ...(metadata.container.docker === undefined ? {} : { docker: { name: metadata.container.docker.name } }),
    node: metadata.node.name,
    createdAt: metadata.createdAt,
    totalBytes: metadata.sizes.totalBytes,
    durability: durabilityOf(checkpoint),
    labels: metadata.labels,
    ...(local === undefined ? {} : { localPath: local.path }),
    ...(elsewhere === undefined ? {} : { elsewhere: elsewhere.map(({ node, path }) => ({ node, path })) }),
    ...(remote === undefined ? {} : jsonStored(remote)),
    ...(tiers === undefined ? {} : { tiers: tiers.get(checkpointId) ?? [] }),
  };
}

function jsonStored(stored: NonNullable<ListedCheckpoint['remote']>): Record<string, unknown> {
  const { remote, publishedAt, storedBytes, uniqueBytes, verifiedAt } = stored;
  return { remote, publishedAt, storedBytes, uniqueBytes, ...(verifiedAt === undefined ? {} : { verifiedAt }) };
}
