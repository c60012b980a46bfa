/* The person at the terminal: Ctrl-C, questions, standard input. */
import { createInterface } from 'node:readline';
import { CliError } from './exit-codes.ts';

/** Ctrl-C presses; none is lost between two calls of `next`. */
export interface Interrupts {
  readonly next: () => Promise<void>;
  /** afterwards Ctrl-C ends the program again */
  readonly close: () => void;
}

export interface Terminal {
  /** Is somebody there to answer a question? */
  readonly interactive: boolean;
  listen(): Interrupts;
  /** @returns one line, or undefined when the input ended or `signal` was aborted */
  ask(question: string, signal: AbortSignal): Promise<string | undefined>;
  readAll(): Promise<string>;
  /** standard input, byte for byte */
  input(): AsyncIterable<Uint8Array>;
  /** Writes bytes to standard output; they are used up when it returns. */
  write(bytes: Uint8Array): Promise<void>;
  /**
   * Calls `listener` at SIGTERM and at Ctrl-C, instead of ending the program.
   * @returns stops it
   */
  onStop(listener: () => void): () => void;
}

/** Interrupts from anything that calls `press`. */
export function createInterrupts(onClose: () => void): Interrupts & { readonly press: () => void } {
  let pending = 0;
  let wake: (() => void) | undefined;
  return {
    press: () => {
      pending += 1;
      wake?.();
    },
    next: async () => {
      if (pending === 0) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      pending -= 1;
    },
    close: onClose,
  };
}

/** The terminal of this process. */
export function createProcessTerminal(): Terminal {
  return {
    // A getter: looking at stdin opens it, which most commands do not need.
    get interactive() {
      return process.stdin.isTTY && process.stderr.isTTY;
    },
    listen: () => {
      const interrupts = createInterrupts(() => process.off('SIGINT', interrupts.press));
      process.on('SIGINT', interrupts.press);
      return interrupts;
    },
    onStop: (listener) => {
      process.on('SIGTERM', listener).on('SIGINT', listener);
      return () => {
        process.off('SIGTERM', listener).off('SIGINT', listener);
      };
    },
    ask: askOnce,
    input: () => process.stdin as AsyncIterable<Uint8Array>,
    write: writeBytes,
    readAll: async () => {
      let text = '';
      process.stdin.setEncoding('utf8');
      for await (const chunk of process.stdin) {
        text += String(chunk);
      }
      return text;
    },
  };
}

/** @throws Cancelled whoever read the other end of the pipe has ended */
function writeBytes(bytes: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (error: Error): void => {
      const ended = 'code' in error && error.code === 'EPIPE';
      reject(ended ? new CliError('Cancelled', 'nobody reads standard output any more') : error);
    };
    // Without a listener an ended reader would end the program before anything is cleaned up.
    process.stdout.once('error', fail);
    process.stdout.write(bytes, (error) => {
      process.stdout.off('error', fail);
      if (error) {
        fail(error);
        process.stdout.on('error', () => undefined);
      } else {
        resolve();
      }
    });
  });
}

async function askOnce(question: string, signal: AbortSignal): Promise<string | undefined> {
  // terminal: false leaves the terminal in its line mode, in which Ctrl-C stays a signal.
  const lines = createInterface({ input: process.stdin, output: process.stderr, terminal: false });
  try {
    return await new Promise<string | undefined>((resolve) => {
      signal.addEventListener('abort', () => resolve(undefined), { once: true });
      lines.once('close', () => resolve(undefined));
      lines.question(question, resolve);
    });
  } finally {
    lines.close();
    process.stdin.pause();
  }
}
