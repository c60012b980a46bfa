/* `kybernate ls`: the checkpoints of this node and of the store. */
import type { Command } from 'commander';
import { durabilityOf, listAll } from '../all-checkpoints.ts';
import type { SeenCheckpoint } from '../all-checkpoints.ts';
import type { Cli } from '../cli.ts';
import { exitCodesHelp, reportOf } from '../exit-codes.ts';
import { addHelpTexts, jsonOption } from '../options.ts';
import { createOutput, renderTable } from '../output.ts';
import { formatBytes, formatTime } from '../units.ts';

interface LsFlags {
  readonly store?: string;
  readonly json?: boolean;
}

export function addLsCommand(program: Command, cli: Cli): void {
  const command = program
    .command('ls')
    .summary('list checkpoints, on this node and in the store')
    .description(
      'Lists the checkpoints on this node (below KYBERNATE_STATE_DIR) and in the store, newest first. Half-made ones are ' +
        'not checkpoints and are not listed. "pending" is on this node and still on its way to the store.',
    )
    .option('--store <url>', 'file:///dir or s3://bucket[/prefix] (default: KYBERNATE_STORE)')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate ls', 'everything'],
      ['kybernate ls --store s3://checkpoints --json', 'another store, for a program'],
    ],
    exitCodes: exitCodesHelp(['StorageUnavailable', 'StorageDenied']),
  });
  command.action(async (flags: LsFlags) => {
    const output = createOutput(cli.streams, flags);
    const config = cli.config();
    const list = await listAll(config, flags.store ?? config.store);
    output.result({ checkpoints: list.checkpoints.map(jsonRow), problems: list.problems }, () =>
      list.checkpoints.length === 0 ? 'no checkpoints' : renderList(list.checkpoints),
    );
    for (const problem of list.problems) {
      output.note(`note: ${problem}`);
    }
    if (list.storeError !== undefined) {
      // What there is has been shown; that it is not all is said by the exit code.
      cli.setExitCode(reportOf(list.storeError).exitCode);
    }
  });
}

export function renderList(checkpoints: readonly SeenCheckpoint[]): string {
  return renderTable(checkpoints, [
    { title: 'CHECKPOINT', value: (row) => row.checkpointId },
    { title: 'CONTAINER', value: ({ metadata }) => `${metadata.container.namespace}/${metadata.container.id}` },
    { title: 'NODE', value: ({ metadata }) => metadata.node.name },
    { title: 'CREATED (UTC)', value: ({ metadata }) => formatTime(metadata.createdAt) },
    { title: 'SIZE', value: ({ metadata }) => formatBytes(metadata.sizes.totalBytes), align: 'right' },
    { title: 'DURABILITY', value: durabilityOf },
    { title: 'HERE', value: (row) => (row.local === undefined ? 'no' : 'yes') },
    {
      title: 'LABELS',
      value: ({ metadata }) =>
        Object.entries(metadata.labels)
          .map(([name, value]) => `${name}=${value}`)
          .join(','),
    },
  ]);
}

/** One checkpoint in the JSON of `ls`. */
export function jsonRow(checkpoint: SeenCheckpoint): Record<string, unknown> {
  const { metadata, local, remote } = checkpoint;
  return {
    checkpointId: checkpoint.checkpointId,
    container: { namespace: metadata.container.namespace, id: metadata.container.id },
    ...(metadata.container.pod === undefined ? {} : { pod: metadata.container.pod }),
    node: metadata.node.name,
    createdAt: metadata.createdAt,
    totalBytes: metadata.sizes.totalBytes,
    durability: durabilityOf(checkpoint),
    labels: metadata.labels,
    ...(local === undefined ? {} : { localPath: local.path }),
    ...(remote === undefined ? {} : { remote: remote.remote }),
  };
}
