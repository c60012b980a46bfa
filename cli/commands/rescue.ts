/* `kybernate rescue`: what stands still on this machine, and its repair, when nothing else answers any more. */
import { connect } from 'node:net';
import { join } from 'node:path';
import type { Command } from 'commander';
import { ERRORS, KybernateError } from '../../core/errors.ts';
import type { Finding } from '../../engine/rescue/finding.ts';
import type { Repaired, Survey } from '../../engine/rescue/rescue.ts';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { RUN_AS_ROOT, needsRoot } from '../needs-root.ts';
import { addHelpTexts, jsonOption } from '../options.ts';
import { createOutput, renderTable } from '../output.ts';

interface RescueFlags {
  readonly json?: boolean;
  readonly apply?: boolean;
  readonly force?: boolean;
}

const EXIT_LEFT = 1;
const EXIT_STANDS_STILL = ERRORS.Poisoned.exitCode;
const AGENT_MS = 1000;
const WITHOUT_ROOT = `what only root sees: ${RUN_AS_ROOT}`;

export function addRescueCommand(program: Command, cli: Cli): void {
  const command = program
    .command('rescue')
    .summary('show and repair what stands still on this node')
    .description(
      'Shows containers that stand still, operations that are half-made or poisoned, and what dead ones left, as files, ' +
        'cgroups, network namespaces and the GPU driver of this machine tell; Temporal and containerd may be down. With ' +
        '--apply it repairs what it can: thaws, gives GPUs back, removes network locks, mounts, cgroups and files, reads ' +
        'back, and tells what is left. A live runner is left at work, and a live node worker repairs by itself: --force ' +
        'goes on all the same. --apply needs root, and without root not everything is seen.',
    )
    .argument('[what]', 'operation id, container, network table or path; without it everything')
    .option('--apply', 'repair; without it nothing is changed')
    .option('--force', 'with --apply: beside a live node worker, and what a live runner has')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate rescue', 'what is there, and what to do'],
      ['kybernate rescue --apply', 'repair all of it'],
      ['kybernate rescue web --apply', 'let this container go, also if somebody may have paused it'],
    ],
    exitCodes: exitCodesHelp(
      ['ContainerNotFound', 'LockLost'],
      [
        [EXIT_LEFT, 'something is left, nothing stands still'],
        [EXIT_STANDS_STILL, 'a workload stands still, or is poisoned'],
      ],
    ),
  });
  command.action((what: string | undefined, flags: RescueFlags) => runRescue(what, flags, cli));
}

async function runRescue(what: string | undefined, flags: RescueFlags, cli: Cli): Promise<void> {
  if (flags.apply === true) {
    needsRoot(cli, 'rescue --apply');
  }
  const [{ survey, repair }, { runExeca }, { openGpuDriver }, { gpuLibraries }, { connectContainerd }] =
    await Promise.all([
      import('../../engine/rescue/rescue.ts'),
      import('../../native/run/run-execa.ts'),
      import('../../native/cuda/open.ts'),
      import('../gpu-node.ts'),
      import('../../native/containerd/client.ts'),
    ]);
  const { runDir, stateDir } = cli.config();
  const output = createOutput(cli.streams, flags);
  const say = (fields: object, message: string): void => output.note(`${message} ${JSON.stringify(fields)}`);
  const quiet = (): void => undefined;
  const deps = {
    settings: { runDir, stateDir },
    run: runExeca,
    containerd: connectContainerd,
    gpu: () => openGpuDriver(gpuLibraries(cli.env)),
    log: { debug: quiet, info: quiet, warn: say, error: say },
  };
  const seen = await survey(deps, what);
  const before = cli.isRoot ? seen : { ...seen, unseen: [WITHOUT_ROOT, ...seen.unseen] };
  if (what !== undefined && before.findings.length === 0) {
    const text = `nothing of ${what} stands still, is half-made or left on this node`;
    throw cli.isRoot
      ? new KybernateError('ContainerNotFound', text)
      : new KybernateError('ContainerNotFound', `${text}, as far as is seen without root`, {
          details: { remedy: RUN_AS_ROOT },
        });
  }
  if (flags.apply !== true) {
    finish(cli, output.json, before, before, []);
    return;
  }
  await refuseOwned(join(runDir, 'agent.sock'), before.findings, flags);
  const repaired = await repair(before.findings, { named: what !== undefined, force: flags.force === true });
  finish(cli, output.json, before, await survey(deps, what), repaired);
}

/** @throws LockLost somebody who works has it */
async function refuseOwned(agent: string, findings: readonly Finding[], { force }: RescueFlags): Promise<void> {
  const toDo = findings.filter(({ state, repair }) => repair !== undefined && state !== 'on purpose');
  if (force === true || toDo.length === 0) {
    return;
  }
  if (toDo.every(({ state }) => state === 'at work')) {
    throw new KybernateError(
      'LockLost',
      `${toDo.map(({ id, detail }) => `${id}: ${detail}`).join('; ')}; nothing was done`,
      {
        details: { remedy: 'wait for it, or cancel its workflow; --force ends the runner and undoes its work' },
      },
    );
  }
  if (await answers(agent)) {
    throw new KybernateError(
      'LockLost',
      `a node worker answers on ${agent}: it undoes what stands still at once and every 30 seconds; nothing was done`,
      { details: { remedy: 'wait 30 seconds and look again; --force repairs beside it, for a worker that hangs' } },
    );
  }
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const end = (alive: boolean): void => {
      socket.destroy();
      resolve(alive);
    };
    socket.setTimeout(AGENT_MS, () => end(false));
    socket.once('connect', () => end(true)).once('error', () => end(false));
  });
}

function finish(cli: Cli, json: boolean, before: Survey, after: Survey, repaired: readonly Repaired[]): void {
  const { unseen } = after;
  const found = before.findings.map(plain);
  const left = after.findings.map(plain);
  createOutput(cli.streams, { json }).result({ found, repaired, left, unseen }, () =>
    [
      ...repaired.map(({ id, done, error }) =>
        error === undefined ? `${id}: ${done ?? ''}` : `${id}: FAILED: ${error}`,
      ),
      render(after.findings),
      ...unseen.map((text) => `not looked at: ${text}`),
    ].join('\n'),
  );
  const states = new Set(after.findings.map(({ state }) => state));
  if (states.has('poisoned') || states.has('stands still')) {
    cli.setExitCode(EXIT_STANDS_STILL);
  } else if (states.has('left') || unseen.length > 0) {
    cli.setExitCode(EXIT_LEFT);
  }
}

function plain({ repair, ...finding }: Finding): object {
  return { ...finding, repairable: repair !== undefined };
}

function render(findings: readonly Finding[]): string {
  if (findings.length === 0) {
    return 'nothing stands still, is half-made or left on this node';
  }
  const table = renderTable(findings, [
    { title: 'STATE', value: ({ state }) => state },
    { title: 'KIND', value: ({ kind }) => kind },
    { title: 'ID', value: ({ id }) => id },
    { title: 'CONTAINER', value: ({ container }) => container ?? '' },
  ]);
  const why = findings.map(({ id, detail, remedy }) => `${id}: ${detail}\n  → ${remedy}`);
  return `${table}\n\n${why.join('\n')}`;
}
