/* `kybernate runtime install` and `uninstall`: our runtimes on this node, for containers that name them and for pods. */
import type { Command } from 'commander';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { needsRoot } from '../needs-root.ts';
import { addHelpTexts, jsonOption } from '../options.ts';
import { createOutput, renderPairs } from '../output.ts';

interface RuntimeFlags {
  readonly dir: string;
  readonly containerdConfig: string;
  readonly containerdAddress: string;
  readonly restart?: string;
  readonly json?: boolean;
}

interface InstallFlags extends RuntimeFlags {
  readonly payload?: string;
  readonly hostRoot: string;
  readonly runc?: string;
  readonly requireCri?: boolean;
  readonly runDir: string;
}

export function addRuntimeCommand(program: Command, cli: Cli): void {
  const group = program
    .command('runtime')
    .summary("our runtimes in this node's containerd")
    .description('Adds the runtimes `kybernate` and `kybernate-gpu` to the containerd of this node, or removes them.')
    .helpCommand(false);
  const install = shared(group.command('install'))
    .summary('install the runtimes and name them in containerd')
    .description(
      'Installs shim and wrapper below --dir and names the runtimes in a file of our own beside the configuration of ' +
        'containerd, which is restarted. When it does not come back, or its CRI plug-in does not load them, everything is as before. A second call changes ' +
        'nothing. Containers that run go on.',
    )
    .option('--payload <dir>', "tree of Kybernate's container image to copy; default: what this command runs from")
    .option('--host-root <dir>', 'where the root of the node is seen, to look for runc', '/')
    .option('--runc <path>', 'runc of the node; default: the first one in its usual places')
    .option('--require-cri', 'fail, and change nothing, where pods cannot use them: the CRI plug-in is off')
    .option('--run-dir <dir>', "the node worker's KYBERNATE_RUN_DIR", '/run/kybernate')
    .addOption(jsonOption());
  addHelpTexts(install, {
    examples: [
      ["kybernate runtime install --restart 'systemctl restart containerd'", 'on a node with systemd'],
      ['kybernate runtime install', 'containerd is restarted by somebody else'],
    ],
    exitCodes: exitCodesHelp(['Incompatible', 'DiskFull']),
  });
  install.action(async (flags: InstallFlags) => {
    needsRoot(cli, 'runtime install');
    const output = createOutput(cli.streams, flags);
    const { installRuntimes } = await import('../host/runtimes.ts');
    const result = await installRuntimes({
      ...flags,
      env: cli.env,
      say: (line) => cli.streams.stderr.write(`${line}\n`),
    });
    output.result(result, () =>
      renderPairs([
        ['runtimes', 'kybernate, kybernate-gpu'],
        ['launcher', result.launcher],
        ['runc', result.runc],
        ['containerd', result.containerd],
      ]),
    );
  });

  const uninstall = shared(group.command('uninstall'))
    .summary('remove what `install` has made')
    .description(
      'Takes the runtimes out of the configuration of containerd, restarts it and empties --dir. Containers that run ' +
        'under them go on and end with the runc of the node. Checkpoints stay.',
    )
    .addOption(jsonOption());
  addHelpTexts(uninstall, {
    examples: [["kybernate runtime uninstall --restart 'systemctl restart containerd'", 'on a node with systemd']],
    exitCodes: exitCodesHelp(['Incompatible']),
  });
  uninstall.action(async (flags: RuntimeFlags) => {
    needsRoot(cli, 'runtime uninstall');
    const output = createOutput(cli.streams, flags);
    const { uninstallRuntimes } = await import('../host/runtimes.ts');
    const result = await uninstallRuntimes({ ...flags, say: (line) => cli.streams.stderr.write(`${line}\n`) });
    output.result(result, () =>
      renderPairs([
        ['containerd', result.containerd],
        ['left', result.left.join(', ') || 'nothing'],
      ]),
    );
  });
}

function shared(command: Command): Command {
  return command
    .option('--dir <dir>', 'where they are installed', '/opt/kybernate')
    .option('--containerd-config <file>', 'configuration of containerd', '/etc/containerd/config.toml')
    .option('--containerd-address <socket>', 'socket of containerd', '/run/containerd/containerd.sock')
    .option('--restart <command>', 'shell command that restarts containerd; without it a person does');
}
