/*
 * The workflow bundle: core/ and workflows/ as one file for Temporal's sandbox. The installed package ships it
 * (dist/workflow-bundle.js); in the repository it is built when needed and kept under a hash of its sources. Where traces
 * are on a worker runs another one, with the interceptors of trace-interceptors.ts; what it runs is the same.
 */
import { createHash } from 'node:crypto';
import { mkdir, readFile, readdir, rename, stat, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DefaultLogger, bundleWorkflowCode } from '@temporalio/worker';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const FROM_SOURCE = import.meta.url.endsWith('.ts');

export type BundleKind = 'plain' | 'traced';
const FILES: Readonly<Record<BundleKind, string>> = {
  plain: 'workflow-bundle.js',
  traced: 'workflow-bundle-traced.js',
};

/** Bundles the workflows into a file of `dir`, which appears whole or not at all. @returns its path */
export async function buildBundle(dir: string, kind: BundleKind, name: string = FILES[kind]): Promise<string> {
  const source = (file: string): string => join(ROOT, 'workflows', `${file}.${FROM_SOURCE ? 'ts' : 'js'}`);
  const outFile = join(dir, name);
  const { code } = await bundleWorkflowCode({
    workflowsPath: source('index'),
    workflowInterceptorModules: kind === 'traced' ? [source('trace-interceptors')] : [],
    logger: new DefaultLogger('WARN'),
  });
  await mkdir(dir, { recursive: true });
  const temporary = `${outFile}.${process.pid}`;
  await writeFile(temporary, code);
  await rename(temporary, outFile);
  return outFile;
}

/** Path of a bundle that fits the code it lies beside; builds it in the repository (seconds) unless it is there. */
export async function workflowBundlePath(kind: BundleKind = 'plain'): Promise<string> {
  if (!FROM_SOURCE) {
    return join(ROOT, FILES[kind]);
  }
  const dir = await cacheDir();
  const name = FILES[kind].replace('.js', `-${await sourcesHash()}.js`);
  return (await exists(join(dir, name))) ? join(dir, name) : buildBundle(dir, kind, name);
}

async function cacheDir(): Promise<string> {
  const modules = join(ROOT, 'node_modules');
  return (await exists(modules)) ? join(modules, '.cache', 'kybernate') : join(tmpdir(), 'kybernate-bundles');
}

const BUNDLED = ['@temporalio/worker', '@temporalio/workflow', '@temporalio/interceptors-opentelemetry', 'zod'];

/** Everything that decides what the bundle contains, the bundler's own version included. */
async function sourcesHash(): Promise<string> {
  const hash = createHash('sha256');
  const require = createRequire(import.meta.url);
  for (const name of BUNDLED) {
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
