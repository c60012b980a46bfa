/* `kybernate temporal apply`: namespace, search attributes and schedules of temporal.yaml. */
import { fileURLToPath } from 'node:url';
import type { Command } from 'commander';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { addHelpTexts, jsonOption } from '../options.ts';
import { createOutput, renderTable } from '../output.ts';
import type { Applied } from '../temporal-apply.ts';

export function addTemporalCommand(program: Command, cli: Cli): void {
  const group = program
    .command('temporal')
    .summary('prepare a Temporal server')
    .description('Prepares a Temporal server for Kybernate.')
    .helpCommand(false);
  const command = group
    .command('apply')
    .summary('apply temporal.yaml: namespace, search attributes, schedules')
    .description(
      'Makes what the file names and the server lacks: namespace, search attributes, schedules. Removes nothing; a ' +
        'second call changes nothing. The server is that of TEMPORAL_ADDRESS.',
    )
    .argument('[file]', 'default: the one that comes with Kybernate')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate temporal apply', 'once a server, and after an upgrade'],
      ['TEMPORAL_ADDRESS=temporal:7233 TEMPORAL_NAMESPACE=gpu kybernate temporal apply', 'another server'],
    ],
    exitCodes: exitCodesHelp(['Incompatible', 'TemporalUnreachable']),
  });
  command.action(async (file: string | undefined, flags: { readonly json?: boolean }) => {
    const output = createOutput(cli.streams, flags);
    const { readTemporalConfig } = await import('../temporal-config.ts');
    const config = await readTemporalConfig(file ?? (await shippedFile()));
    const { connectAdmin } = await import('../temporal-admin.ts');
    const { applyTemporalConfig } = await import('../temporal-apply.ts');
    const server = await connectAdmin(cli.env);
    try {
      const applied = await applyTemporalConfig(config, server.namespace, server.admin);
      output.result({ applied }, () => renderApplied(applied));
    } finally {
      await server.close();
    }
  });
}

export function renderApplied(applied: readonly Applied[]): string {
  return renderTable(applied, [
    { title: 'KIND', value: (row) => (row.kind === 'searchAttribute' ? 'search attribute' : row.kind) },
    { title: 'NAME', value: (row) => row.name },
    { title: 'CHANGE', value: (row) => row.change },
  ]);
}

/** Beside the sources in the repository, one directory further up in the built package. */
async function shippedFile(): Promise<string> {
  const { existsSync } = await import('node:fs');
  const places = ['../../temporal.yaml', '../../../temporal.yaml'].map((place) =>
    fileURLToPath(new URL(place, import.meta.url)),
  );
  return places.find((place) => existsSync(place)) ?? places[0] ?? 'temporal.yaml';
}
