/* Starts child.ts as a sidecar is started, from a bundle, beside the worker threads that it needs. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { SMALL_MEMORY } from '../../workers/memory.ts';
import type { Answer, Command } from './child.ts';

const path = (relative: string): string => fileURLToPath(new URL(relative, import.meta.url));

export interface SubjectProcess {
  run(command: Command): Promise<Answer>;
  close(): Promise<void>;
}

/** The bundle lies below node_modules, where its packages are found. @returns the file to run */
export async function bundleChild(): Promise<string> {
  const outdir = path('../../node_modules/.cache/kybernate-bench');
  await mkdir(outdir, { recursive: true });
  await writeFile(join(outdir, 'package.json'), '{"type":"module"}');
  await build({
    entryPoints: { child: path('child.ts'), 'chunk-worker': path('../../store/chunk-worker.ts') },
    outdir,
    bundle: true,
    platform: 'node',
    format: 'esm',
    packages: 'external',
    logLevel: 'error',
  });
  return join(outdir, 'child.js');
}

export function startSubject(bundle: string): SubjectProcess {
  const child = spawn(process.execPath, [...SMALL_MEMORY.execArgv, bundle], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, ...SMALL_MEMORY.env },
  });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  return {
    async run(command) {
      child.stdin.write(`${JSON.stringify(command)}\n`);
      const line = await lines.next();
      if (line.done === true) {
        throw new Error(`the process of the bench ended at ${command.do}`);
      }
      return JSON.parse(line.value);
    },
    async close() {
      child.stdin.end();
      if (child.exitCode === null) {
        await once(child, 'exit');
      }
    },
  };
}
