/* `kybernate doctor`: is this machine able to checkpoint and restore, and did something dead leave traces? */
import type { Command } from 'commander';
import type { Cli } from '../cli.ts';
import { addHelpTexts, jsonOption } from '../options.ts';
import { createOutput } from '../output.ts';
import type { Diagnosis } from '../setup/diagnosis.ts';

interface DoctorFlags {
  readonly json?: boolean;
}

const EXIT_NOT_WELL = 1;

export function addDoctorCommand(program: Command, cli: Cli): void {
  const command = program
    .command('doctor')
    .summary('check this node and what dead operations left on it')
    .description(
      'Checks programs, kernel, CRIU, containerd, Temporal, the node worker and the sidecar, and looks for what dead ' +
        'operations left: operations without a live runner, half-made checkpoints and fetches, network locks, cgroups, ' +
        'mounts, GPU processes, leases of containerd, pending uploads (for the store: `kybernate gc --dry-run`). Changes nothing; says what to do about every row that is not right.',
    )
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate doctor', 'every row, with a remedy where one is needed'],
      ['kybernate doctor --json', 'the same for programs'],
    ],
    exitCodes: ['', 'Exit codes:', '    0  everything that is needed is right', '    1  at least one row failed'].join(
      '\n',
    ),
  });
  command.action((flags: DoctorFlags) => runDoctor(flags, cli));
}

async function runDoctor(flags: DoctorFlags, cli: Cli): Promise<void> {
  const [{ diagnose }, { temporalServer }, { runExeca }] = await Promise.all([
    import('../setup/doctor.ts'),
    import('../connect.ts'),
    import('../../native/run/run-execa.ts'),
  ]);
  const { env } = cli;
  const temporal = temporalServer(env);
  const { runDir, stateDir } = cli.config();
  const rows = await diagnose({
    env,
    run: runExeca,
    runDir,
    stateDir,
    containerdAddress: env['KYBERNATE_CONTAINERD_ADDRESS'] || '/run/containerd/containerd.sock',
    temporalAddress: temporal.address,
    temporalNamespace: temporal.namespace,
  });
  const ok = !rows.some((row) => row.state === 'fail');
  createOutput(cli.streams, flags).result({ ok, rows }, () => renderRows(rows));
  if (!ok) {
    cli.setExitCode(EXIT_NOT_WELL);
  }
}

function renderRows(rows: readonly Diagnosis[]): string {
  const width = Math.max(...rows.map((row) => row.name.length));
  return rows
    .flatMap((row) => [
      `${row.state.padEnd(4)}  ${row.name.padEnd(width)}  ${row.detail}`,
      ...(row.remedy === undefined ? [] : [`      ${' '.repeat(width)}  → ${row.remedy}`]),
    ])
    .join('\n');
}
