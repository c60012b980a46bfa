/* One line that changes in place on a terminal; a new line every ten seconds elsewhere. */
import type { TextStream } from '../output.ts';

const TERMINAL_PERIOD_MS = 200;
const PLAIN_PERIOD_MS = 10_000;

export interface ProgressLine {
  set(text: string): void;
  /** removes the line; the next output starts at its place */
  end(): void;
}

/** @returns a running display of `name`, the seconds since its start and the last text that was set */
export function startProgressLine(stream: TextStream, name: string): ProgressLine {
  const begin = performance.now();
  const terminal = stream.isTTY === true;
  let text = '';
  const show = (): void => {
    const seconds = Math.round((performance.now() - begin) / 1000);
    const line = `         ${name} ${seconds} s  ${text}`;
    if (terminal) {
      stream.write(`\r\u001B[K${line.slice(0, (stream.columns ?? 80) - 1)}`);
    } else {
      stream.write(`${line}\n`);
    }
  };
  const timer = setInterval(show, terminal ? TERMINAL_PERIOD_MS : PLAIN_PERIOD_MS);
  return {
    set: (next) => {
      text = next;
    },
    end: () => {
      clearInterval(timer);
      if (terminal) {
        stream.write('\r\u001B[K');
      }
    },
  };
}
