/* The reference of the command line, from the commands themselves. */
import type { Command } from 'commander';
import { createProgram } from '../../cli/program.ts';
import { table } from './table.ts';

export function cliReference(): string {
  const program = createProgram(documentedCli());
  return visibleCommands(program, []).map(commandReference).join('\n\n');
}

function visibleCommands(command: Command, path: readonly string[]): Array<{ name: string; command: Command }> {
  return command
    .createHelp()
    .visibleCommands(command)
    .filter((child) => child.name() !== 'help')
    .flatMap((child) => {
      const name = [...path, child.name()];
      return child.commands.length > 0 ? visibleCommands(child, name) : [{ name: name.join(' '), command: child }];
    });
}

function commandReference({ name, command }: { name: string; command: Command }): string {
  const args = command.registeredArguments.map((argument) =>
    argument.required ? ` <${argument.name()}>` : ` [${argument.name()}]`,
  );
  const rows = command.options
    .filter((option) => !option.hidden)
    .map((option) => {
      const choices = option.argChoices?.map((choice) => `\`${choice}\``).join(', ');
      return [`\`${option.flags}\``, `${option.description}${choices === undefined ? '' : `; one of ${choices}`}`];
    });
  const heading = `### \`kybernate ${name}${args.join('')}\`\n\n${command.description()}`;
  return rows.length === 0 ? heading : `${heading}\n\n${table(['Option', 'Meaning'], rows)}`;
}

/** Commands are only described here, never run. */
function documentedCli(): Parameters<typeof createProgram>[0] {
  function unused(): never {
    throw new Error('gen-docs runs no command');
  }
  const silent = { write: () => undefined };
  return {
    env: {},
    streams: { stdout: silent, stderr: silent },
    terminal: {
      interactive: false,
      listen: unused,
      ask: unused,
      readAll: unused,
      input: unused,
      write: unused,
      onStop: unused,
    },
    isRoot: false,
    config: unused,
    connect: unused,
    setExitCode: unused,
  };
}
