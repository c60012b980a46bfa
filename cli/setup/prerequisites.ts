/* What set-up cannot install: the rows of tools/prerequisites.sh, which runs before there is a node_modules. */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import { runExeca } from '../../native/run/run-execa.ts';
import type { Env } from './programs.ts';
import { type Check, PURPOSES, type Step } from './step.ts';

const WHY: Readonly<Record<string, string>> = {
  system: 'what set-up knows how to equip',
  root: 'containers, CRIU, apt',
  node: 'to run npm',
  npm: 'installs the packages of the lock file, Node 24 among them',
  go: 'builds containerd, runc, Temporal from their published modules',
  gcc: 'builds CRIU and runc',
  make: 'builds CRIU',
};

interface Row extends Check {
  readonly name: string;
  readonly remedy: string;
}

/** Path of a script in tools/, which lies two folders up in the repository and three in the built package. */
export function toolPath(name: string): string {
  const places = ['../../tools', '../../../tools'].map((dir) =>
    fileURLToPath(new URL(`${dir}/${name}`, import.meta.url)),
  );
  return places.find((path) => existsSync(path)) ?? name;
}

/** Rows of `prerequisites.sh --rows`: name, ok or missing, what was found, how to get it. */
export function parseRows(text: string): Row[] {
  return text
    .split('\n')
    .filter((line) => line.includes('\t'))
    .map((line) => {
      const [name = '', state = '', detail = '', remedy = ''] = line.split('\t');
      const ok = state === 'ok';
      // A bare version says nothing about the place.
      return ok && /^\d/.test(detail)
        ? { name, ok, version: detail, detail: 'on PATH', remedy }
        : { name, ok, detail, remedy };
    });
}

/** One run of the script serves all rows of one set-up. */
function rowsOf(): (env: Env) => Promise<Row[]> {
  let rows: Promise<Row[]> | undefined;
  return (env) => {
    rows ??= runExeca('/bin/sh', [toolPath('prerequisites.sh'), '--rows'], {
      env: { PATH: env['PATH'] ?? '', HOME: env['HOME'] ?? '/' },
      timeoutMs: 30_000,
    }).then((result) => parseRows(result.stdout));
    return rows;
  };
}

/** A step a row. Checked again only by a new call: they do not change while set-up runs. */
export function prerequisiteSteps(): Step[] {
  const read = rowsOf();
  return Object.entries(WHY).map(([name, why]) => ({
    name,
    why,
    neededFor: PURPOSES,
    remedy: `see ${toolPath('prerequisites.sh')}`,
    check: async (env) => {
      const row = (await read(env)).find((candidate) => candidate.name === name);
      if (row === undefined) {
        return { ok: false, detail: 'tools/prerequisites.sh says nothing about it' };
      }
      return row.ok ? row : { ok: false, detail: `${row.detail}; ${row.remedy}` };
    },
  }));
}
