/* `kybernate worker control|node`, `kybernate sidecar`, and the hidden `kybernate runner` and `kybernate guard` that node workers start. */
import type { Command } from 'commander';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { needsRoot } from '../needs-root.ts';
import { addHelpTexts } from '../options.ts';

/** What all of them give: see workers/run-workers.ts. */
interface RunningWorker {
  shutdown(): void;
  readonly done: Promise<void>;
}

export function addWorkerCommand(program: Command, cli: Cli): void {
  const group = program
    .command('worker')
    .summary('run a worker: control, or node')
    .description('Runs a worker until SIGTERM or Ctrl-C. Its log is JSON, one line an event, on stdout.')
    .helpCommand(false);
  const exitCodes = exitCodesHelp(['Incompatible']);

  const control = group
    .command('control')
    .summary('all workflows, locks and the catalog; needs no privileges')
    .description(
      'Serves the task queue `kybernate`: all workflows, locks and the catalog. Needs Temporal and the store, no ' +
        'privileges. Any number of them may run. Settings: docs/configuration.md.',
    );
  addHelpTexts(control, {
    examples: [['KYBERNATE_STORE=s3://checkpoints kybernate worker control', 'with an S3 store']],
    exitCodes,
  });
  control.action(async () => {
    const { startControlWorker } = await import('../../workers/control.ts');
    await untilStopped(cli, await startControlWorker({ env: cli.env }));
  });

  const node = group
    .command('node')
    .summary('the steps on this node; one a node, as root')
    .description(
      'Serves the task queues of this node: capture, restore, fetch, clean-up. One a node, as root, with access to ' +
        'containerd, without keys of the store: those are for `kybernate sidecar`. Settings: docs/configuration.md. A container that is frozen while it is restarted is not affected: ' +
        'its runner is a process of its own.',
    );
  addHelpTexts(node, {
    examples: [['KYBERNATE_NODE=worker-3 kybernate worker node', 'under another name']],
    exitCodes,
  });
  node.action(async () => {
    needsRoot(cli, 'worker node');
    const { startNodeWorker } = await import('../../workers/node.ts');
    await untilStopped(cli, await startNodeWorker({ env: cli.env }));
  });
}

export function addSidecarCommand(program: Command, cli: Cli): void {
  const command = program
    .command('sidecar')
    .summary('send checkpoints of this node to the store; one a node')
    .description(
      'Serves the transfers of this node until SIGTERM or Ctrl-C: the only process here that has the keys of the store. ' +
        'Started as root it becomes KYBERNATE_SIDECAR_USER before it opens a connection; it reads checkpoints and ' +
        'writes none. Without it only `--durability local` and restores from this node work. Settings: ' +
        'docs/configuration.md; calls: docs/sidecar.md.',
    );
  addHelpTexts(command, {
    examples: [['KYBERNATE_STORE=s3://checkpoints kybernate sidecar', 'with an S3 store']],
    exitCodes: exitCodesHelp(['Incompatible']),
  });
  command.action(async () => {
    const { startSidecar } = await import('../../workers/sidecar.ts');
    await untilStopped(cli, await startSidecar({ env: cli.env }));
  });
}

export function addOperatorCommand(program: Command, cli: Cli): void {
  const command = program
    .command('operator')
    .summary('Checkpoint and Restore objects of a Kubernetes cluster')
    .description(
      'Handles the objects Checkpoint and Restore (kybernate.io/v1alpha1) of a cluster until SIGTERM or Ctrl-C: each ' +
        'Checkpoint is a workflow, each Restore a pod. Several may run, one of them acts. The cluster is that of the pod ' +
        'it runs in, or of KUBECONFIG. See docs/operator.md.',
    );
  addHelpTexts(command, {
    examples: [['KYBERNATE_WATCH_NAMESPACE=ml kybernate operator', 'of one namespace']],
    exitCodes: exitCodesHelp(['Incompatible', 'LockLost']),
  });
  command.action(async () => {
    const { startOperator } = await import('../../workers/operator.ts');
    await untilStopped(cli, await startOperator({ env: cli.env }));
  });
}

/** A second signal changes nothing: the grace time of the shutdown is bounded. */
async function untilStopped(cli: Cli, worker: RunningWorker): Promise<void> {
  const ignore = cli.terminal.onStop(() => worker.shutdown());
  try {
    await worker.done;
  } finally {
    ignore();
  }
}

export function addGuardCommand(program: Command): void {
  program
    .command('guard', { hidden: true })
    .description(
      'Lets the workload of one operation go when its runner cannot. Started by a node worker, never by hand.',
    )
    .argument('<directory>', 'directory of the operation')
    .action(async (directory: string) => {
      const { guardMain } = await import('../../workers/guard.ts');
      await guardMain(directory);
    });
}

export function addRunnerCommand(program: Command): void {
  program
    .command('runner', { hidden: true })
    .description('The frozen section of one operation. Started by a node worker, never by hand.')
    .argument('<directory>', 'directory of the operation')
    .action(async (directory: string) => {
      const { runnerMain } = await import('../../workers/runner.ts');
      await runnerMain(directory);
      // It serves its socket and ends the process by itself.
      await new Promise<never>(() => undefined);
    });
}
