/*
 * Runner and freeze guard as one file each: every checkpoint waits for their start, which a hundred modules triple, and
 * they must be able to act whatever becomes of the node's files meanwhile. The installed package has them so; in the
 * repository they are built when needed and kept under a hash of what went in.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, readdir, rename, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { NodeSettings } from '../engine/node-deps.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const FROM_SOURCE = import.meta.url.endsWith('.ts');
/** All that they may import. */
const SOURCES = ['core', 'native', 'engine', 'workers'];
/** For the CommonJS among what goes in. */
const REQUIRE = "import { createRequire } from 'node:module';\nconst require = createRequire(import.meta.url);";

type Role = 'runner' | 'guard';

/** Bundles the sources of the repository into `outFile`, which appears whole or not at all. */
export async function buildProcess(role: Role, outFile: string): Promise<void> {
  const { build } = await import('esbuild');
  const result = await build({
    entryPoints: [join(ROOT, 'workers', `${role}.ts`)],
    bundle: true,
    write: false,
    platform: 'node',
    target: 'node24',
    format: 'esm',
    // a native addon
    external: ['koffi'],
    banner: { js: REQUIRE },
    legalComments: 'eof',
    logLevel: 'warning',
  });
  const [file] = result.outputFiles;
  if (file === undefined) {
    throw new Error(`esbuild wrote no ${outFile}`);
  }
  await mkdir(dirname(outFile), { recursive: true });
  const temporary = `${outFile}.${process.pid}`;
  await writeFile(temporary, file.contents);
  await rename(temporary, outFile);
}

/** The commands of these settings, with the bundles for their last words. */
export async function withBundles(settings: NodeSettings): Promise<NodeSettings> {
  const { runnerCommand, guardCommand } = settings;
  const bundled = async (command: readonly string[], role: Role): Promise<string[]> => [
    ...command.slice(0, -1),
    await processBundlePath(role),
  ];
  return {
    ...settings,
    runnerCommand: await bundled(runnerCommand, 'runner'),
    ...(guardCommand === undefined ? {} : { guardCommand: await bundled(guardCommand, 'guard') }),
  };
}

/** Path of the bundle that fits the code it lies beside; builds it in the repository (a moment) unless it is there. */
export async function processBundlePath(role: Role): Promise<string> {
  if (!FROM_SOURCE) {
    return join(ROOT, 'workers', `${role}.js`);
  }
  const file = join(ROOT, 'node_modules', '.cache', 'kybernate', `${role}-${await sourcesHash()}.mjs`);
  if (!existsSync(file)) {
    await buildProcess(role, file);
  }
  return file;
}

async function sourcesHash(): Promise<string> {
  const hash = createHash('sha256').update(await readFile(join(ROOT, 'package-lock.json')));
  for (const folder of SOURCES) {
    const names = await readdir(join(ROOT, folder), { recursive: true });
    for (const name of names.filter((one) => one.endsWith('.ts') && !one.endsWith('.test.ts')).sort()) {
      hash.update(`${folder}/${name}\0`).update(await readFile(join(ROOT, folder, name)));
    }
  }
  return hash.digest('hex').slice(0, 16);
}
