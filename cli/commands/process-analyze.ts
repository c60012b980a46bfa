/* `kybernate process analyze`: what a process holds, and whether it can be checkpointed. Touches nothing. */
import { Option } from 'commander';
import type { Command } from 'commander';
import { ERRORS } from '../../core/errors.ts';
import type { ProcessReport } from '../../engine/analysis-report.ts';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { needsRoot } from '../needs-root.ts';
import { addHelpTexts, countArgument, jsonOption } from '../options.ts';
import { createOutput, renderPairs, renderTable } from '../output.ts';
import { formatBytes } from '../units.ts';

interface AnalyzeFlags {
  readonly tcp?: 'keep' | 'close';
  readonly json?: boolean;
}

/** @param group the command `process` */
export function addProcessAnalyzeCommand(group: Command, cli: Cli): void {
  const command = group
    .command('analyze')
    .summary('what a process holds, and whether it can be checkpointed')
    .description(
      'Looks at a process of this machine and at all below it: sockets, pipes, terminals, locks, deleted files, ' +
        'namespaces. Shows the options that CRIU would be given, each with its reason, and what keeps it from being ' +
        'checkpointed, with what to do about it. Needs root; nothing is touched.',
    )
    .argument('<pid>', 'root of the tree', countArgument)
    .addOption(new Option('--tcp <policy>', 'established TCP connections (default: keep)').choices(['keep', 'close']))
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate process analyze 4711', 'a table, and the reasons'],
      ['kybernate process analyze $(pidof redis-server) --json', 'for a script: .possible says whether'],
    ],
    exitCodes: exitCodesHelp(['ProcessNotFound', 'Incompatible']),
  });
  command.action((pid: number, flags: AnalyzeFlags) => runAnalyze(cli, pid, flags));
}

async function runAnalyze(cli: Cli, pid: number, flags: AnalyzeFlags): Promise<void> {
  needsRoot(cli, 'process analyze');
  const [{ reportProcess }, { runExeca }] = await Promise.all([
    import('../../engine/analysis-report.ts'),
    import('../../native/run/run-execa.ts'),
  ]);
  const report = await reportProcess({ run: runExeca }, { pid }, { tcp: flags.tcp ?? 'keep', after: 'resume' });
  createOutput(cli.streams, flags).result(report, () => renderReport(report));
  if (!report.possible) {
    cli.setExitCode(ERRORS.Incompatible.exitCode);
  }
}

export function renderReport(report: ProcessReport): string {
  const head = renderPairs([
    ['process', `${report.pid}: ${report.command}`],
    ['user', String(report.uid)],
    ['directory', report.cwd],
    ['processes', report.processes.map(({ pid, command, threads }) => `${pid} ${command} (${threads})`).join(', ')],
    ['size, roughly', formatBytes(report.estimatedBytes)],
  ]);
  const holdings = renderTable(report.holdings, [
    { title: 'HOLDS', value: ({ kind }) => kind },
    { title: 'COUNT', value: ({ count }) => String(count) },
    { title: 'FOR EXAMPLE', value: ({ examples }) => examples[0] ?? '' },
  ]);
  const options = renderTable(report.options, [
    { title: 'CRIU OPTION', value: ({ option }) => option },
    { title: 'WHY', value: ({ reason }) => reason },
  ]);
  const verdict = report.possible
    ? `it can be checkpointed: kybernate process checkpoint ${report.pid}`
    : `it cannot be checkpointed as it is:\n${report.refusals.map((text) => `  - ${text}`).join('\n')}`;
  return [head, holdings, options, ...report.warnings.map((text) => `note: ${text}`), verdict].join('\n\n');
}
