/* `kybernate completion`: a script that completes subcommands, options and their choices, made from the real commands. */
import { Argument } from 'commander';
import type { Command, Option } from 'commander';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { addHelpTexts } from '../options.ts';

export const SHELLS = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof SHELLS)[number];

/** One command as the scripts need it; `path` is `['temporal', 'apply']` for a nested one. */
interface CompletedCommand {
  readonly path: readonly string[];
  readonly summary: string;
  readonly commands: readonly string[];
  readonly options: ReadonlyArray<{
    readonly flag: string;
    readonly description: string;
    readonly takesValue: boolean;
    readonly choices: readonly string[];
  }>;
  /** choices of the first argument */
  readonly values: readonly string[];
}

export function addCompletionCommand(program: Command, cli: Cli): void {
  const command = program
    .command('completion')
    .summary('print a shell completion script')
    .description('Prints a script that completes commands, options and their values.')
    .addArgument(new Argument('<shell>').choices(SHELLS));
  addHelpTexts(command, {
    examples: [
      ['source <(kybernate completion bash)', 'in ~/.bashrc'],
      ['kybernate completion zsh > "${fpath[1]}/_kybernate"', 'zsh, once'],
      ['kybernate completion fish > ~/.config/fish/completions/kybernate.fish', 'fish, once'],
    ],
    exitCodes: exitCodesHelp([]),
  });
  command.action((shell: Shell) => {
    cli.streams.stdout.write(completionScript(program, shell));
  });
}

export function completionScript(program: Command, shell: Shell): string {
  const commands = describe(program, []);
  return WRITERS[shell](program.name(), commands);
}

const WRITERS: Readonly<Record<Shell, (name: string, commands: readonly CompletedCommand[]) => string>> = {
  bash: bashScript,
  zsh: zshScript,
  fish: fishScript,
};

function describe(command: Command, path: readonly string[]): CompletedCommand[] {
  // The help knows what is hidden, and adds `help` and `--help` themselves.
  const help = command.createHelp();
  const visible = help.visibleCommands(command).filter((child) => child.name() !== 'help');
  const options = help.visibleOptions(command).map((option: Option) => ({
    flag: option.long ?? option.short ?? '',
    description: option.description,
    takesValue: option.required || option.optional,
    choices: option.argChoices ?? [],
  }));
  const own: CompletedCommand = {
    path,
    summary: command.summary() || command.description(),
    commands: visible.map((child) => child.name()),
    options,
    values: command.registeredArguments[0]?.argChoices ?? [],
  };
  return [own, ...visible.flatMap((child) => describe(child, [...path, child.name()]))];
}

function wordsOf(command: CompletedCommand): string {
  return [...command.commands, ...command.values, ...command.options.map((option) => option.flag)].join(' ');
}

/** bash and zsh (through bashcompinit's rules it would lose descriptions) share how the command path is found. */
function bashScript(name: string, commands: readonly CompletedCommand[]): string {
  const cases = commands.map((command) => `    '${command.path.join(' ')}') words='${wordsOf(command)}' ;;`);
  const choices = choiceCases(commands).map(([key, values]) => `    '${key}') words='${values}' ;;`);
  const nested = commands.filter((command) => command.path.length > 0).map((command) => `'${command.path.join(' ')}'`);
  return `# bash completion of ${name}
_${name}() {
  local current previous path='' word words=''
  current="\${COMP_WORDS[COMP_CWORD]}"
  previous="\${COMP_WORDS[COMP_CWORD-1]}"
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "\${path:+$path }$word" in
    ${nested.join('|')}) path="\${path:+$path }$word" ;;
    esac
  done
  case "$path" in
${cases.join('\n')}
  esac
  case "$path $previous" in
${choices.join('\n')}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  [ \${#COMPREPLY[@]} -gt 0 ] || COMPREPLY=($(compgen -f -- "$current"))
}
complete -o filenames -F _${name} ${name}
`;
}

function choiceCases(commands: readonly CompletedCommand[]): Array<[key: string, values: string]> {
  return commands.flatMap((command) =>
    command.options
      .filter((option) => option.choices.length > 0)
      .map((option): [string, string] => [`${command.path.join(' ')} ${option.flag}`, option.choices.join(' ')]),
  );
}

function zshScript(name: string, commands: readonly CompletedCommand[]): string {
  const nested = commands.filter((command) => command.path.length > 0).map((command) => `'${command.path.join(' ')}'`);
  const cases = commands.map((command) => {
    const lines = [
      ...command.commands.map((child) => {
        const summary = commands.find((other) => other.path.join(' ') === [...command.path, child].join(' '))?.summary;
        return zshWord(child, summary ?? '');
      }),
      ...command.values.map((value) => zshWord(value, '')),
      ...command.options.map((option) => zshWord(option.flag, option.description)),
    ];
    return `    '${command.path.join(' ')}') entries=(\n${lines.map((line) => `      ${line}`).join('\n')}\n    ) ;;`;
  });
  const choices = choiceCases(commands).map(([key, values]) => `    '${key}') entries=(${values}) ;;`);
  return `#compdef ${name}
_${name}() {
  local -a entries
  local where='' word
  for word in "\${(@)words[2,CURRENT-1]}"; do
    case "\${where:+$where }$word" in
    ${nested.join('|')}) where="\${where:+$where }$word" ;;
    esac
  done
  case "$where" in
${cases.join('\n')}
  esac
  case "$where \${words[CURRENT-1]}" in
${choices.join('\n')}
  esac
  _describe '${name}' entries || _files
}
if [ "$funcstack[1]" = "_${name}" ]; then _${name} "$@"; else compdef _${name} ${name}; fi
`;
}

function zshWord(word: string, description: string): string {
  const text = firstLine(description).replaceAll(':', '\\:');
  return quote(text === '' ? word : `${word}:${text}`);
}

function fishScript(name: string, commands: readonly CompletedCommand[]): string {
  const lines = [`# fish completion of ${name}`];
  for (const command of commands) {
    const condition = fishCondition(command);
    for (const child of command.commands) {
      const summary = commands.find((other) => other.path.join(' ') === [...command.path, child].join(' '))?.summary;
      lines.push(`complete -c ${name} -f -n ${quote(condition)} -a ${child} -d ${quote(firstLine(summary ?? ''))}`);
    }
    for (const value of command.values) {
      lines.push(`complete -c ${name} -f -n ${quote(condition)} -a ${value}`);
    }
    for (const option of command.options) {
      const values =
        option.choices.length > 0 ? ` -x -a ${quote(option.choices.join(' '))}` : option.takesValue ? ' -r' : '';
      const flag = option.flag.replace(/^--/, '');
      lines.push(
        `complete -c ${name} -n ${quote(condition)} -l ${flag} -d ${quote(firstLine(option.description))}${values}`,
      );
    }
  }
  return `${lines.join('\n')}\n`;
}

/** True where the words so far are those of the command and none of its subcommands has been typed yet. */
function fishCondition(command: CompletedCommand): string {
  if (command.path.length === 0) {
    return '__fish_use_subcommand';
  }
  const seen = command.path.map((word) => `__fish_seen_subcommand_from ${word}`);
  const deeper = command.commands.length > 0 ? [`not __fish_seen_subcommand_from ${command.commands.join(' ')}`] : [];
  return [...seen, ...deeper].join('; and ');
}

function firstLine(text: string): string {
  return text.split('\n')[0] ?? '';
}

/** Single quotes of sh, zsh and fish alike. */
function quote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
