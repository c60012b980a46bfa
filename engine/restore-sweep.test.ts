import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { NodeDeps } from './node-deps.ts';
import { readRestore, restoresUsing, writeRestore } from './restore-operation.ts';
import { sweepRestores } from './restore-sweep.ts';

const [FIRST, SECOND] = ['a'.repeat(32), 'b'.repeat(32)];
const silent = (): void => undefined;

let dir: string;
let deps: NodeDeps;
let errors: string[];
const op = {
  signal: new AbortController().signal,
  log: { debug: silent, info: silent, warn: silent, error: (_: object, message = '') => void errors.push(message) },
  progress: silent,
};

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-restore-sweep-'));
  errors = [];
  const run: NodeDeps['run'] = () => Promise.resolve({ exitCode: 1 } as never);
  deps = { settings: { runDir: dir, stateDir: dir, node: 'n' }, run } as unknown as NodeDeps;
});
afterEach(() => rmSync(dir, { recursive: true }));

/** As kubelet's containers have one. */
function prepared(operationId: string, id: string): void {
  writeRestore(deps.settings, {
    operationId,
    container: { namespace: 'k8s.io', id },
    madeBy: 'others',
    checkpointId: 'ck-1',
    checkpointDir: dir,
    imageDir: dir,
    hasMetadata: true,
    snapshotter: '',
    tcp: 'close',
    onFailure: 'fail',
    restoreBudgetMs: 1000,
    stdio: { kind: 'null' },
    terminal: false,
    attempt: 1,
    state: 'prepared',
    bundle: join(dir, 'bundles', id),
    runcRoot: join(dir, 'runc'),
  });
  mkdirSync(join(dir, 'bundles', id), { recursive: true });
  mkdirSync(join(dir, 'runc', id), { recursive: true });
}

test('a restore whose bundle is there is left to its wrapper, one without is ended', async () => {
  prepared(FIRST, 'c1');
  prepared(SECOND, 'c2');
  rmSync(join(dir, 'bundles/c2'), { recursive: true });

  expect(await sweepRestores(deps, op)).toEqual([SECOND]);

  expect(restoresUsing(deps.settings, 'ck-1')).toEqual([FIRST]);
});

test('a container that was restored while no agent answered keeps no checkpoint on the node', async () => {
  prepared(FIRST, 'c1');
  prepared(SECOND, 'c2');
  writeFileSync(join(dir, 'runc/c1/kybernate-restored'), `${FIRST}\n/a/note\n`);
  // Of an earlier life of the container.
  writeFileSync(join(dir, 'runc/c2/kybernate-restored'), `${FIRST}\n`);

  expect(await sweepRestores(deps, op)).toEqual([FIRST]);

  expect(readRestore(deps.settings, SECOND)?.state).toBe('prepared');
  expect(restoresUsing(deps.settings, 'ck-1')).toEqual([SECOND]);
});

test('a restore that cannot be ended keeps nobody from the others', async () => {
  prepared(FIRST, 'c1');
  prepared(SECOND, 'c2');
  rmSync(join(dir, 'bundles'), { recursive: true });
  // A mount that does not go: nothing may delete below it.
  mkdirSync(join(dir, 'runc/c1/criu-root/files'), { recursive: true });

  expect(await sweepRestores(deps, op)).toEqual([SECOND]);

  expect(errors).toEqual(['an abandoned restore could not be ended']);
  expect(readRestore(deps.settings, FIRST)).toBeDefined();
});
