/* The person at the terminal: Ctrl-C, questions, standard input. */
import { createInterface } from 'node:readline';

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
