/*
 * runc's command line, both ways: read what a shim asks for, write what we ask for. The grammar is that of runc 1.1 to
 * 1.5: global options, a command, its options, the container id last; `--name value` and `--name=value` mean the same.
 */
import { KybernateError } from '../errors.ts';

const GLOBAL_VALUES: ReadonlySet<string> = new Set(['--root', '--log', '--log-format', '--rootless', '--criu']);
const CREATE_VALUES: ReadonlySet<string> = new Set([
  '--bundle',
  '-b',
  '--console-socket',
  '--pidfd-socket',
  '--pid-file',
  '--preserve-fds',
]);

const CHECKPOINT_VALUES: ReadonlySet<string> = new Set([
  '--image-path',
  '--work-path',
  '--parent-path',
  '--status-fd',
  '--page-server',
  '--manage-cgroups-mode',
  '--empty-ns',
]);

const RESTORE_VALUES: ReadonlySet<string> = new Set([
  '--bundle',
  '-b',
  '--console-socket',
  '--image-path',
  '--work-path',
  '--manage-cgroups-mode',
  '--pid-file',
  '--empty-ns',
  '--lsm-profile',
  '--lsm-mount-context',
]);

/** What every command of runc has. */
export interface RuncCommand {
  /** options before the command, as given */
  readonly globals: readonly string[];
  /** runc's own default when the shim gives none */
  readonly root: string;
  readonly log?: string;
  readonly logFormat: 'text' | 'json';
  readonly id: string;
}

export interface RuncCreate extends RuncCommand {
  /** absent: the working directory */
  readonly bundle?: string;
  readonly pidFile?: string;
  readonly consoleSocket?: string;
  readonly pidfdSocket?: string;
  readonly noPivot: boolean;
}

/**
 * @param argv arguments without the program's name
 * @throws InvalidInput it is no `create` with a container id
 */
export function parseRuncCreate(argv: readonly string[]): RuncCreate {
  const { command, own } = parseCommand(argv, 'create', CREATE_VALUES);
  const bundle = own.get('--bundle') ?? own.get('-b');
  return {
    ...command,
    noPivot: own.has('--no-pivot'),
    ...optional('bundle', bundle),
    ...optional('pidFile', own.get('--pid-file')),
    ...optional('consoleSocket', own.get('--console-socket')),
    ...optional('pidfdSocket', own.get('--pidfd-socket')),
  };
}

export interface RuncCheckpoint extends RuncCommand {
  /** absent: `checkpoint` in the working directory */
  readonly imagePath?: string;
  /** absent: the image path */
  readonly workPath?: string;
  readonly leaveRunning: boolean;
  readonly tcpEstablished: boolean;
  /** its other options, as given, without values */
  readonly options: readonly string[];
}

/**
 * @param argv arguments without the program's name
 * @throws InvalidInput it is no `checkpoint` with a container id
 */
export function parseRuncCheckpoint(argv: readonly string[]): RuncCheckpoint {
  const { command, own } = parseCommand(argv, 'checkpoint', CHECKPOINT_VALUES);
  const on = (name: string): boolean => own.has(name) && own.get(name) !== 'false';
  return {
    ...command,
    leaveRunning: on('--leave-running'),
    tcpEstablished: on('--tcp-established'),
    options: [...own.keys()].filter((name) => !['--image-path', '--work-path', '--leave-running'].includes(name)),
    ...optional('imagePath', own.get('--image-path')),
    ...optional('workPath', own.get('--work-path')),
  };
}

/** A `restore` that somebody else asks for. */
export interface RuncForeignRestore extends RuncCommand {
  /** absent: the working directory */
  readonly bundle?: string;
}

/**
 * @param argv arguments without the program's name
 * @throws InvalidInput it is no `restore` with a container id
 */
export function parseRuncRestore(argv: readonly string[]): RuncForeignRestore {
  const { command, own } = parseCommand(argv, 'restore', RESTORE_VALUES);
  return { ...command, ...optional('bundle', own.get('--bundle') ?? own.get('-b')) };
}

/** The command's name; undefined when there is none. */
export function runcCommandName(argv: readonly string[]): string | undefined {
  return argv[readOptions(argv, 0, GLOBAL_VALUES).next];
}

function parseCommand(
  argv: readonly string[],
  name: string,
  withValue: ReadonlySet<string>,
): { command: RuncCommand; own: ReadonlyMap<string, string> } {
  const globals = readOptions(argv, 0, GLOBAL_VALUES);
  if (argv[globals.next] !== name) {
    throw new KybernateError('InvalidInput', `not a runc ${name}: ${argv.join(' ')}`);
  }
  const own = readOptions(argv, globals.next + 1, withValue);
  const id = argv[own.next];
  if (id === undefined || id === '') {
    throw new KybernateError('InvalidInput', `runc ${name} without a container id: ${argv.join(' ')}`);
  }
  const command: RuncCommand = {
    globals: argv.slice(0, globals.next),
    root: globals.values.get('--root') ?? '/run/runc',
    logFormat: globals.values.get('--log-format') === 'json' ? 'json' : 'text',
    id,
    ...optional('log', globals.values.get('--log')),
  };
  return { command, own: own.values };
}

function readOptions(
  argv: readonly string[],
  start: number,
  withValue: ReadonlySet<string>,
): { values: Map<string, string>; next: number } {
  const values = new Map<string, string>();
  let next = start;
  for (;;) {
    const word = argv[next];
    if (word === undefined || !word.startsWith('-')) {
      return { values, next };
    }
    const equals = word.indexOf('=');
    if (equals > 0) {
      values.set(word.slice(0, equals), word.slice(equals + 1));
    } else if (withValue.has(word)) {
      next += 1;
      values.set(word, argv[next] ?? '');
    } else {
      values.set(word, 'true');
    }
    next += 1;
  }
}

export interface RuncRestore {
  readonly imageDir: string;
  readonly workDir: string;
  readonly bundle: string;
  /** flags of CRIU options, in order, for example `--tcp-established` */
  readonly criuFlags: readonly string[];
}

/** Arguments of the `runc restore` that stands in for a `runc create`: detached, parent stays the shim. */
export function runcRestoreArgv(create: RuncCreate, restore: RuncRestore): readonly string[] {
  return [
    ...create.globals,
    'restore',
    '--detach',
    '--no-subreaper',
    '--bundle',
    restore.bundle,
    '--image-path',
    restore.imageDir,
    '--work-path',
    restore.workDir,
    ...(create.pidFile === undefined ? [] : ['--pid-file', create.pidFile]),
    ...(create.consoleSocket === undefined ? [] : ['--console-socket', create.consoleSocket]),
    ...(create.noPivot ? ['--no-pivot'] : []),
    ...restore.criuFlags,
    create.id,
  ];
}

function optional<Key extends string>(key: Key, value: string | undefined): Partial<Record<Key, string>> {
  return (value === undefined || value === '' ? {} : { [key]: value }) as Partial<Record<Key, string>>;
}
