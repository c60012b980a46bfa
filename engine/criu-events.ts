/*
 * CRIU's events from a `criu` that runc starts. CRIU calls a small script (configuration option `action-script`, which
 * reaches it through CRIU_CONFIG_FILE) at each of its moments; the script reports those that somebody wants to hear of over
 * a pair of fifos, and waits for our word. Events that nobody wants cost one `sh`, as they do without any of this.
 */
import { constants, openSync } from 'node:fs';
import { open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { KybernateError } from '../core/errors.ts';
import type { CriuEventName } from '../core/hooks.ts';
import type { Run } from '../native/run/run.ts';

/** As the script tells it. */
export interface ScriptEvent {
  readonly name: string;
  /** host pid of the root of the tree; 0: CRIU does not know it yet */
  readonly pid: number;
}

export interface CriuEventsOptions {
  /** on a tmpfs; the fifos are made there */
  readonly dir: string;
  readonly events: readonly CriuEventName[];
  /** CRIU waits for it; what it throws makes CRIU fail */
  readonly onEvent: (event: ScriptEvent) => Promise<unknown>;
}

export interface CriuEvents {
  /** for the environment of runc */
  readonly env: Readonly<Record<string, string>>;
  /** what `onEvent` threw first */
  readonly failure: () => Error | undefined;
  /** Hears of nothing more; an `onEvent` that is under way is not waited for. */
  readonly close: () => Promise<void>;
}

/**
 * Runs in the host's namespaces as a child of CRIU, which waits for it. It forks nothing. When nobody answers, it waits:
 * whoever undoes the operation kills it with CRIU.
 */
const ACTION_SCRIPT = `#!/bin/sh
case " $KYBERNATE_TELL " in *" $CRTOOLS_SCRIPT_ACTION "*) ;; *) exit 0 ;; esac
echo "$CRTOOLS_SCRIPT_ACTION $CRTOOLS_INIT_PID" >"$KYBERNATE_EVENTS"
read -r answer <"$KYBERNATE_ANSWERS"
[ "$answer" = go ]
`;

/**
 * The same for every operation, below the state directory: CRIU executes it, and /run is mounted noexec on many hosts.
 * @returns its path, for the option `action-script`
 */
export async function installActionScript(stateDir: string): Promise<string> {
  // Named by its protocol: an older version of us may be in the middle of an operation.
  const file = join(stateDir, 'criu-action-script-2');
  if ((await readFile(file, 'utf8').catch(() => '')) !== ACTION_SCRIPT) {
    const temporary = `${file}.${process.pid}`;
    await writeFile(temporary, ACTION_SCRIPT, { mode: 0o700 });
    await rename(temporary, file);
  }
  return file;
}

/** Touches nothing of the workload. @throws Internal */
export async function makeEventPipes(run: Run, dir: string): Promise<void> {
  const { events, answers } = pipesIn(dir);
  await Promise.all([events, answers].map((file) => rm(file, { force: true })));
  const made = await run('mkfifo', ['-m', '0600', events, answers]);
  if (made.exitCode !== 0) {
    throw new KybernateError('Internal', `mkfifo failed: ${made.stderr}; the workload is untouched`);
  }
}

function pipesIn(dir: string): { readonly events: string; readonly answers: string } {
  return { events: join(dir, 'criu.events'), answers: join(dir, 'criu.answers') };
}

/** Listens from now on; the pipes are there. */
export async function listenToCriu({ dir, events, onEvent }: CriuEventsOptions): Promise<CriuEvents> {
  const pipes = pipesIn(dir);
  // Both ends open in one process: neither side ever blocks in open, and a dead CRIU is seen by runc's end.
  const eventsFd = openSync(pipes.events, constants.O_RDWR | constants.O_NONBLOCK);
  const answers = await open(pipes.answers, constants.O_RDWR | constants.O_NONBLOCK);
  const socket = new Socket({ fd: eventsFd, readable: true, writable: false });
  const lines = createInterface({ input: socket });
  let failure: Error | undefined;
  const answer = async (line: string): Promise<void> => {
    const [name = '', pid] = line.split(' ');
    let word = 'go\n';
    try {
      await onEvent({ name, pid: Number(pid) || 0 });
    } catch (error) {
      failure ??= error instanceof Error ? error : new Error(String(error));
      word = 'stop\n';
    }
    await answers.write(word);
  };
  lines.on('line', (line) => {
    // CRIU is gone and the fifo closed: unheard, it would end the runner in the freeze.
    answer(line).catch(() => undefined);
  });
  return {
    env: { KYBERNATE_TELL: events.join(' '), KYBERNATE_EVENTS: pipes.events, KYBERNATE_ANSWERS: pipes.answers },
    failure: () => failure,
    close: async () => {
      lines.close();
      socket.destroy();
      await answers.close();
    },
  };
}
