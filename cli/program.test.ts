import { describe, expect, it } from 'vitest';
import { KybernateError } from '../core/errors.ts';
import { createFakeCli } from '../test/harness/fake-cli.ts';
import { createProgram, run } from './program.ts';

describe('wrong usage ends with 2, starts nothing and names the flag', () => {
  it.each<[string, string[], string]>([
    ['an unknown command', ['chekpoint'], "unknown command 'chekpoint'"],
    ['an unknown flag', ['checkpoint', 'redis', '--fast'], "unknown option '--fast'"],
    ['a value that is no choice', ['checkpoint', 'redis', '--after', 'sleep'], '--after'],
    ['a duration without a unit', ['checkpoint', 'redis', '--freeze-budget', '60'], '--freeze-budget'],
    ['a duration that is too long', ['checkpoint', 'redis', '--freeze-budget', '30d'], '--freeze-budget'],
    ['a label without a value', ['checkpoint', 'redis', '--label', 'x'], '--label'],
    ['a pod without a container', ['checkpoint', '--pod', 'a/b'], '--pod'],
    ['no container', ['checkpoint'], '<container>, --pod or --docker'],
    ['a container and a pod', ['checkpoint', 'redis', '--pod', 'a/b/c'], '<container>, --pod or --docker'],
    ['a container id with a slash', ['checkpoint', 'a/b'], '<container>:'],
    ['a node name in capitals', ['checkpoint', 'redis', '--node', 'Node'], '--node'],
    ['an id that leaves the directory', ['checkpoint', 'redis', '--id', '../x'], '--id'],
    ['a file that is not there', ['checkpoint', 'redis', '--input', '/nowhere/x.json'], '--input'],
    ['no checkpoint', ['restore'], '<checkpoint>'],
    ['a path without --unverified', ['restore', '--path', '/x'], '--unverified'],
    ['a relative path', ['restore', '--path', 'x', '--unverified'], '--path'],
    ['a relative log file', ['restore', 'ck-1', '--log-file', 'x'], '--log-file'],
    ['a GPU without its stand-in', ['restore', 'ck-1', '--gpu', 'GPU-11111111-2222-3333-4444-555555555555'], '--gpu'],
    ['a GPU that is no UUID', ['restore', 'ck-1', '--gpu', '0=1'], '--gpu'],
    ['a hook that is no list of words', ['checkpoint', 'redis', '--quiesce', '["a", 1]'], '--quiesce'],
    ['an empty hook', ['checkpoint', 'redis', '--quiesce', ' '], '--quiesce'],
    ['a rehearsal of nothing', ['gpu', 'rehearse'], '<container>, --pod or --docker'],
    ['too many arguments', ['restore', 'a', 'b'], 'too many arguments'],
  ])('%s', async (_, args, named) => {
    const fake = createFakeCli();

    expect(await run(args, fake.cli)).toBe(2);

    expect(fake.stderr()).toContain(named);
    expect(fake.stderr()).toMatch(/^kybernate: InvalidInput: /);
    expect(fake.calls).toEqual([]);
  });

  it.each<[string[], string]>([
    [['frobnicate'], 'see `kybernate --help`'],
    [['ps', '--bogus'], 'see `kybernate ps --help`'],
    [['process', 'analyze', 'abc'], 'see `kybernate process analyze --help`'],
  ])('says of %j where the right one stands', async (args, remedy) => {
    const fake = createFakeCli();

    await run(args, fake.cli);

    expect(fake.stderr()).toContain(`  remedy:   ${remedy}\n`);
  });

  it.each<[string[], string]>([
    [['process', 'analyze', 'abc'], "InvalidInput: <pid>: 'abc' is none. Give a whole number from 1."],
    [['checkpoint', '--input', '/nowhere/x'], '--input: cannot read /nowhere/x: no such file or directory\n'],
    [['checkpoint', '--input', '-'], '--input: standard input is no JSON: '],
    [['import', '/nowhere/x'], 'cannot read /nowhere/x: no such file or directory\n'],
  ])('says of %j what is wrong, once', async (args, text) => {
    const fake = createFakeCli({ stdin: 'abc' });

    expect(await run(args, fake.cli)).toBe(2);

    expect(fake.stderr()).toContain(text);
  });

  it('as JSON with --json', async () => {
    const fake = createFakeCli();

    expect(await run(['checkpoint', '--json'], fake.cli)).toBe(2);

    expect(JSON.parse(fake.stdout())).toMatchObject({ error: { type: 'InvalidInput' } });
    expect(fake.stderr()).toBe('');
  });

  it('for a wrong environment, but not for --help', async () => {
    const fake = createFakeCli({ env: { KYBERNATE_NODE: 'NOT A NODE' } });

    expect(await run(['--help'], fake.cli)).toBe(0);
    expect(await run(['checkpoint', 'redis'], fake.cli)).toBe(2);

    expect(fake.stderr()).toContain('KYBERNATE_NODE');
  });
});

describe('an error', () => {
  const refused = (): Promise<never> => Promise.reject(new KybernateError('RuntimeUnavailable', 'no'));

  it.each<[string[], boolean]>([
    [['checkpoint', 'redis'], true],
    [['restore', 'ck-1'], false],
    [['verify', 'ck-1'], false],
  ])('of %j tells the state of a workload: %s', async (args, tells) => {
    const fake = createFakeCli({ operation: { result: refused } });

    expect(await run(args, fake.cli)).toBe(25);

    expect(fake.stderr().includes('workload:')).toBe(tells);
  });

  it('after which somebody must look at a workload says so, whatever the command was', async () => {
    const poisoned = (): Promise<never> => Promise.reject(new KybernateError('Poisoned', 'no'));
    const fake = createFakeCli({ operation: { result: poisoned } });

    await run(['restore', 'ck-1'], fake.cli);

    expect(fake.stderr()).toContain('  workload: unknown: look at the node\n');
  });
});

describe('help', () => {
  const program = createProgram(createFakeCli().cli);
  const commands = program.createHelp().visibleCommands(program);

  it.each(commands.map((command) => [command.name()]))('of %s shows examples and exit codes', async (name) => {
    const fake = createFakeCli();

    expect(await run([name, '--help'], fake.cli)).toBe(0);

    const nested = commands.find((command) => command.name() === name)?.commands ?? [];
    if (nested.length === 0) {
      expect(fake.stdout()).toMatch(/\nExamples:\n {2}\$ .*kybernate /);
      expect(fake.stdout()).toMatch(/\nExit codes:\n/);
    }
  });

  it.each(['checkpoint', 'restore', 'verify', 'repair', 'export', 'cat', 'inspect', 'prefetch', 'preflight'])(
    'of %s, which reads or writes a store that may be encrypted, has the exit code of a key that is not there',
    async (name) => {
      const fake = createFakeCli();

      await run([name, '--help'], fake.cli);

      expect(fake.stdout()).toMatch(/\n +23 {2}KeyUnavailable\n/);
    },
  );

  it.each([['ps'], ['rescue'], ['runtime', 'install'], ['runtime', 'uninstall']])(
    'of %s %s has every exit code once, in order',
    async (...words) => {
      const fake = createFakeCli();

      await run([...words.filter((word) => word !== undefined), '--help'], fake.cli);

      const codes = [...(fake.stdout().split('Exit codes:')[1] ?? '').matchAll(/^ +(\d+) /gm)].map(([, code]) =>
        Number(code),
      );
      expect(codes).toEqual([...new Set(codes)].sort((left, right) => left - right));
    },
  );

  it('gives a default as people write it', async () => {
    const fake = createFakeCli();

    await run(['ps', '--help'], fake.cli);

    expect(fake.stdout()).toContain('(default: 1d)');
  });

  it('stands in for a missing command, which ends with 2', async () => {
    const fake = createFakeCli();

    expect(await run([], fake.cli)).toBe(2);

    expect(fake.stderr()).toContain('Usage: kybernate');
  });

  it('has a version', async () => {
    const fake = createFakeCli();

    expect(await run(['--version'], fake.cli)).toBe(0);

    expect(fake.stdout()).toMatch(/^\d+\.\d+\.\d+\n$/);
  });
});
