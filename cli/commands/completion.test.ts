import { execFileSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { createFakeCli } from '../../test/harness/fake-cli.ts';
import { createProgram, run } from '../program.ts';
import { completionScript } from './completion.ts';

const program = createProgram(createFakeCli().cli);

/** What bash offers at the end of the line. */
function completeInBash(...words: string[]): string[] {
  const quoted = words.map((word) => `'${word}'`).join(' ');
  const script = `${completionScript(program, 'bash')}
COMP_WORDS=(${quoted}); COMP_CWORD=${String(words.length - 1)}; _kybernate; printf '%s\\n' "\${COMPREPLY[@]}"`;
  return execFileSync('bash', ['-c', script], { encoding: 'utf8' }).trim().split('\n');
}

describe('completion in bash', () => {
  it.each<[string, string[], string[]]>([
    ['commands', ['kybernate', 'che'], ['checkpoint']],
    ['options of the command', ['kybernate', 'checkpoint', '--free'], ['--freeze-budget']],
    ['choices of an option', ['kybernate', 'checkpoint', 'redis', '--after', ''], ['resume', 'hold', 'stop']],
    ['choices of another command', ['kybernate', 'restore', '--source', 'l'], ['local']],
    ['choices of an argument', ['kybernate', 'completion', 'z'], ['zsh']],
  ])('offers %s', (_, words, offered) => {
    expect(completeInBash(...words)).toEqual(offered);
  });
});

describe('completion scripts', () => {
  it.each(['zsh', 'fish'] as const)('for %s name every visible command and every option', (shell) => {
    const script = completionScript(program, shell);
    const flags = program.commands.flatMap((command) => command.options.map((option) => option.long?.slice(2) ?? ''));
    const names = program
      .createHelp()
      .visibleCommands(program)
      .map((command) => command.name());

    expect([...names, ...flags].filter((word) => !script.includes(word))).toEqual([]);
  });

  it('are what the command prints', async () => {
    const fake = createFakeCli();

    expect(await run(['completion', 'fish'], fake.cli)).toBe(0);

    expect(fake.stdout()).toBe(completionScript(createProgram(fake.cli), 'fish'));
  });

  it('are refused for an unknown shell', async () => {
    expect(await run(['completion', 'tcsh'], createFakeCli().cli)).toBe(2);
  });
});
