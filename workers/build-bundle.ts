/*
 * The workflow bundle: core/ and workflows/ as one file for Temporal's sandbox. The installed package ships it
 * (dist/workflow-bundle.js); in the repository it is built when needed and kept under a hash of its sources.
 */
import { createHash } from 'node:crypto';
import { mkdir, readFile, readdir, rename, stat, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DefaultLogger, bundleWorkflowCode } from '@temporalio/worker';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const FROM_SOURCE = import.meta.url.endsWith('.ts');

/** Bundles the workflows into `outFile`, which appears whole or not at all. */
export async function buildBundle(outFile: string): Promise<void> {
  const { code } = await bundleWorkflowCode({
    workflowsPath: join(ROOT, 'workflows', FROM_SOURCE ? 'index.ts' : 'index.js'),
    logger: new DefaultLogger('WARN'),
  });
  await mkdir(dirname(outFile), { recursive: true });
  const temporary = `${outFile}.${process.pid}`;
  await writeFile(temporary, code);
  await rename(temporary, outFile);
}

/** Path of a bundle that fits the code it lies beside; builds it in the repository (seconds) unless it is there. */
export async function workflowBundlePath(): Promise<string> {
  if (!FROM_SOURCE) {
    return join(ROOT, 'workflow-bundle.js');
  }
  const file = join(await cacheDir(), `workflow-bundle-${await sourcesHash()}.js`);
  if (!(await exists(file))) {
    await buildBundle(file);
  }
  return file;
}

async function cacheDir(): Promise<string> {
  const modules = join(ROOT, 'node_modules');
  return (await exists(modules)) ? join(modules, '.cache', 'kybernate') : join(tmpdir(), 'kybernate-bundles');
}

/** Everything that decides what the bundle contains, the bundler's own version included. */
async function sourcesHash(): Promise<string> {
  const hash = createHash('sha256');
  const require = createRequire(import.meta.url);
  for (const name of ['@temporalio/worker', '@temporalio/workflow', 'zod']) {
    hash.update(`${name} ${(require(`${name}/package.json`) as { version: string }).version}\0`);
  }
  for (const file of [...(await sources('core')), ...(await sources('workflows'))]) {
    hash.update(`${file}\0`).update(await readFile(join(ROOT, file)));
  }
  return hash.digest('hex').slice(0, 16);
}

async function sources(folder: string): Promise<string[]> {
  const entries = await readdir(join(ROOT, folder), { recursive: true });
  return entries
    .filter((name) => name.endsWith('.ts') && !name.endsWith('.test.ts'))
    .map((name) => join(folder, name))
    .sort();
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

if (import.meta.main) {
  await buildBundle(process.argv[2] ?? join(ROOT, 'dist', 'workflow-bundle.js'));
}
