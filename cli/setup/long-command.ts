/* Programs that take minutes: their output goes to a file, each line is offered for progress. */
import { spawn } from 'node:child_process';
import { createWriteStream, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { createInterface } from 'node:readline';
import { finished } from 'node:stream/promises';

import { KybernateError } from '../../core/errors.ts';
import type { Env } from './programs.ts';

const KEPT_LINES = 25;

/**
 * Runs a program to its end. It stays in our process group: Ctrl-C ends it too.
 * @param onLine every line of stdout and stderr
 * @throws Incompatible with the last lines and the log file, when it does not end with 0
 */
export async function runLong(
  command: readonly [file: string, ...args: string[]],
  options: { readonly env: Env; readonly logFile: string; readonly onLine?: (line: string) => void },
): Promise<void> {
  mkdirSync(dirname(options.logFile), { recursive: true });
  const log = createWriteStream(options.logFile, { flags: 'a' });
  log.write(`$ ${command.join(' ')}\n`);
  const [file, ...args] = command;
  const child = spawn(file, args, { env: options.env, cwd: '/', stdio: ['ignore', 'pipe', 'pipe'] });
  const tail: string[] = [];
  for (const stream of [child.stdout, child.stderr]) {
    stream.pipe(log, { end: false });
    createInterface({ input: stream }).on('line', (line) => {
      tail.push(line);
      tail.splice(0, tail.length - KEPT_LINES);
      options.onLine?.(line);
    });
  }
  const result = await new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('close', (code, signal) => resolve(code === 0 ? '' : `exit code ${code ?? signal}`));
  });
  log.end();
  await finished(log);
  if (result !== '') {
    throw new KybernateError(
      'Incompatible',
      `${command.slice(0, 2).join(' ')} failed (${result}); all of its output is in ${options.logFile}\n${tail.join('\n')}`,
    );
  }
}
