/*
 * node tools/build.ts: the installable package in dist/. JavaScript of every module, the workflow bundle and the bundle
 * of the shim's wrapper. Made in a folder beside it and renamed: dist/ is whole or old. Nothing is done when no input
 * has changed.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { ROOT, TOOL_ENV } from './check-steps.ts';
import { buildBundle } from '../workers/build-bundle.ts';
import { buildProcess } from '../workers/process-bundle.ts';
import { buildWrapper } from './wrapper-bundle.ts';

const DIST = join(ROOT, 'dist');
const MAKING = join(ROOT, 'dist.new');
const STAMP = '.inputs';
const FOLDERS = [
  'core',
  'native',
  'engine',
  'store',
  'activities',
  'workflows',
  'workers',
  'client',
  'operator',
  'shim',
  'cli',
  'tools',
];
const FILES = ['package.json', 'package-lock.json', 'tsconfig.json', 'tsconfig.build.json'];

/** Digest of everything that the package is made of. */
function inputsDigest(): string {
  const hash = createHash('sha256').update(process.version);
  const sources = FOLDERS.flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.ts') && !name.endsWith('.test.ts'))
      .map((name) => join(folder, name)),
  );
  for (const file of [...sources.sort(), ...FILES]) {
    hash.update(`${file}\0`).update(readFileSync(join(ROOT, file)));
  }
  return hash.digest('hex');
}

/** @throws when tsc finds an error; it has printed it */
function compile(): void {
  const tsc = join(ROOT, 'node_modules', '.bin', 'tsc');
  const result = spawnSync(tsc, ['-p', 'tsconfig.build.json', '--outDir', MAKING], {
    cwd: ROOT,
    env: TOOL_ENV,
    stdio: 'inherit',
  });
  if (result.status !== 0) {
    throw new Error(`tsc ended with ${result.status ?? result.signal}`);
  }
}

async function step(name: string, work: () => Promise<void> | void): Promise<void> {
  const begin = performance.now();
  await work();
  console.log(`${name}: ${((performance.now() - begin) / 1000).toFixed(1)} s`);
}

async function main(): Promise<void> {
  const digest = inputsDigest();
  const stamp = join(DIST, STAMP);
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === digest) {
    console.log('dist is up to date');
    return;
  }
  rmSync(MAKING, { recursive: true, force: true });
  await step('modules', compile);
  for (const kind of ['plain', 'traced'] as const) {
    await step(`workflow bundle, ${kind}`, async () => {
      await buildBundle(MAKING, kind);
    });
  }
  await step('runner and guard', async () => {
    await buildProcess('runner', join(MAKING, 'workers', 'runner.js'));
    await buildProcess('guard', join(MAKING, 'workers', 'guard.js'));
  });
  await step('shim wrapper', () => buildWrapper(join(MAKING, 'shim', 'kybernate-wrapper.mjs')));
  chmodSync(join(MAKING, 'cli', 'main.js'), 0o755);
  writeFileSync(join(MAKING, STAMP), digest);
  rmSync(DIST, { recursive: true, force: true });
  renameSync(MAKING, DIST);
}

await main();
