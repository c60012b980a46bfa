/*
 * The bundle of the shim's wrapper: one small file for Node, built by esbuild, kept under a hash of what went in. The
 * reader of YAML, three times as large and seldom needed, lies beside it in a file of its own.
 */
import { createHash, randomUUID } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, readdir, rename, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { YAML_BUNDLE } from '../shim/install.ts';
import { fileURLToPath } from 'node:url';
import type { BuildOptions } from 'esbuild';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
/** Everything that the wrapper may import (the layer rules say so). */
const SOURCES = ['core', 'native', 'engine', 'shim'];

/** Bundles shim/wrapper/main.ts into `outFile`, and what it loads when it needs it beside it. Each file appears whole or not at all. */
export async function buildWrapper(outFile: string): Promise<void> {
  const yaml = { contents: "export { parse } from 'yaml';", resolveDir: ROOT };
  // For Node the package offers CommonJS, which cannot be bundled into a module; its other form needs nothing of Node.
  await bundle({ stdin: yaml, platform: 'neutral' }, join(dirname(outFile), YAML_BUNDLE));
  const apart = { alias: { yaml: `./${YAML_BUNDLE}` }, external: [`./${YAML_BUNDLE}`] };
  await bundle({ entryPoints: [join(ROOT, 'shim', 'wrapper', 'main.ts')], ...apart }, outFile);
}

async function bundle(what: BuildOptions, outFile: string): Promise<void> {
  const { build } = await import('esbuild');
  const result = await build({
    bundle: true,
    write: false,
    platform: 'node',
    target: 'node24',
    format: 'esm',
    minify: true,
    legalComments: 'none',
    logLevel: 'warning',
    ...what,
  });
  const [file] = result.outputFiles ?? [];
  if (file === undefined) {
    throw new Error(`esbuild wrote no ${outFile}`);
  }
  await mkdir(dirname(outFile), { recursive: true });
  // Two lanes of tests build it in one process, at once.
  const temporary = `${outFile}.${randomUUID()}`;
  await writeFile(temporary, file.contents);
  await rename(temporary, outFile);
}

async function sourcesHash(): Promise<string> {
  const hash = createHash('sha256').update(readFileSync(join(ROOT, 'package-lock.json')));
  for (const folder of SOURCES) {
    const names = (await readdir(join(ROOT, folder), { recursive: true })).filter(
      (name) => name.endsWith('.ts') && !name.endsWith('.test.ts'),
    );
    for (const name of names.sort()) {
      hash.update(`${folder}/${name}\0`).update(readFileSync(join(ROOT, folder, name)));
    }
  }
  return hash.digest('hex').slice(0, 16);
}

/** Path of a bundle of the present sources; made (a moment) unless it is there. */
export async function wrapperBundlePath(): Promise<string> {
  const cache = join(ROOT, 'node_modules', '.cache', 'kybernate');
  const file = join(cache, `kybernate-wrapper-${await sourcesHash()}.mjs`);
  if (!existsSync(file) || !existsSync(join(cache, YAML_BUNDLE))) {
    await buildWrapper(file);
  }
  return file;
}
