/* The member names of a tar archive. */
import { KybernateError } from '../core/errors.ts';
import type { Run } from '../native/run/run.ts';

/** Directories end in `/`; a leading `./` is taken off. @throws CheckpointCorrupt */
export async function listTar(run: Run, file: string): Promise<string[]> {
  const result = await run('tar', ['--list', '--quoting-style=escape', `--file=${file}`], { maxOutputBytes: 1 << 30 });
  if (result.exitCode !== 0) {
    throw new KybernateError(
      'CheckpointCorrupt',
      `${file} is not a readable archive: ${result.stderr.trim().slice(-500)}`,
    );
  }
  return result.stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => unescapeName(line).replace(/^\.\//, ''));
}

const SIMPLE: Readonly<Record<string, string>> = {
  a: '\u0007',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
  '\\': '\\',
  ' ': ' ',
};

/** Undoes tar's `escape` quoting: C escapes and three octal digits, which are bytes of UTF-8. */
export function unescapeName(text: string): string {
  if (!text.includes('\\')) {
    return text;
  }
  const bytes: number[] = [];
  const encoder = new TextEncoder();
  for (let at = 0; at < text.length;) {
    const octal = /^\\([0-7]{3})/.exec(text.slice(at, at + 4));
    const simple = text[at] === '\\' ? SIMPLE[text[at + 1] ?? ''] : undefined;
    if (octal !== null) {
      bytes.push(Number.parseInt(octal[1] ?? '', 8));
      at += 4;
    } else if (simple !== undefined) {
      bytes.push(...encoder.encode(simple));
      at += 2;
    } else {
      const character = String.fromCodePoint(text.codePointAt(at) ?? 0);
      bytes.push(...encoder.encode(character));
      at += character.length;
    }
  }
  return new TextDecoder().decode(Uint8Array.from(bytes));
}
