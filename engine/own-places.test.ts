/* Volumes of a restored container outside of pods: how they are made, and when they go. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { waitFor } from '../cli/dev/wait.ts';
import type { OwnPlace } from '../core/oci/own-mounts.ts';
import { readMounts } from '../native/proc/mounts.ts';
import { testOp } from '../test/harness/checkpoint-dir.ts';
import type { NodeDeps } from './node-deps.ts';
import { makeOwnPlaces, removeOwnPlaces, sweepOwnPlaces } from './own-places.ts';
import { ownDirectories } from './pod-directories.ts';

const OPERATION = '0123456789abcdef0123456789abcdef';
const CONTAINER = { namespace: 'default', id: 'web' };

let dir: string;
let settings: NodeDeps['settings'];
let holder: ChildProcess | undefined;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-places-'));
  settings = { stateDir: join(dir, 'state'), runDir: join(dir, 'run') } as NodeDeps['settings'];
});
afterEach(() => {
  holder?.kill('SIGKILL');
  holder = undefined;
  rmSync(dir, { recursive: true, force: true });
});

function place(name: string, kind: OwnPlace['kind'], more: Partial<OwnPlace> = {}): OwnPlace {
  const path = join(settings.stateDir, 'volumes', OPERATION, name);
  return { destination: '/x', path, kind, mode: kind === 'file' ? 0o644 : 0o777, text: 'default\n', ...more };
}

/** @param label the operation that has made the container; undefined: there is none */
function sweep(label: string | undefined): Promise<readonly string[]> {
  const labels = { 'kybernate.io/operation': label ?? '' };
  const getContainer = () => Promise.resolve(label === undefined ? undefined : { labels });
  return sweepOwnPlaces({ settings, containerd: { getContainer } } as unknown as NodeDeps, testOp());
}

it('directories are for everybody, files those of the source or, where they are gone, a default; and all is made once', async () => {
  const hosts = join(dir, 'hosts');
  writeFileSync(hosts, '10.0.0.1 web\n');
  const places = [
    place('0-cache', 'directory'),
    place('1-etc-hosts', 'file', { from: hosts }),
    place('2-etc-resolv.conf', 'file', { from: join(dir, 'gone') }),
  ];

  await makeOwnPlaces(settings, OPERATION, CONTAINER, places);
  writeFileSync(join(places[0]?.path ?? '', 'own'), 'kept');
  await makeOwnPlaces(settings, OPERATION, CONTAINER, places);

  expect(statSync(join(settings.stateDir, 'volumes')).mode & 0o777).toBe(0o700);
  expect(statSync(places[0]?.path ?? '').mode & 0o777).toBe(0o777);
  expect(readFileSync(join(places[0]?.path ?? '', 'own'), 'utf8')).toBe('kept');
  expect(places.slice(1).map(({ path }) => readFileSync(path, 'utf8'))).toEqual(['10.0.0.1 web\n', 'default\n']);
  const mounts = places.map(({ path }) => ({ destination: '/x/', type: 'bind', source: path }));
  expect(ownDirectories({ mounts }, settings)).toEqual([{ name: 'cache', destination: '/x', source: places[0]?.path }]);
});

it('they stay as long as their container is there or its operation goes on, and go after it', async () => {
  await makeOwnPlaces(settings, OPERATION, CONTAINER, [place('0-cache', 'directory')]);
  const own = join(settings.stateDir, 'volumes', OPERATION);

  expect(await sweep(OPERATION)).toEqual([]);
  mkdirSync(join(settings.runDir, 'operations', OPERATION), { recursive: true });
  expect(await sweep(undefined)).toEqual([]);
  rmSync(settings.runDir, { recursive: true });
  expect(existsSync(own)).toBe(true);

  expect(await sweep('f'.repeat(32))).toEqual([own]);
  expect(existsSync(own)).toBe(false);
});

it('what somebody has mounted stays, though containerd knows nothing of it', async () => {
  const cache = place('0-cache', 'directory');
  await makeOwnPlaces(settings, OPERATION, CONTAINER, [cache]);
  const inside = join(dir, 'inside');
  mkdirSync(inside);
  const script = `mount --bind "${cache.path}" "${inside}"; exec sleep 1000`;
  const child = spawn('unshare', ['--mount', '--propagation', 'private', '--', 'sh', '-euc', script], {
    stdio: 'ignore',
  });
  holder = child;
  const isMounted = (): boolean => readMounts(Number(child.pid)).some(({ mountPoint }) => mountPoint === inside);
  await waitFor('the mount', 10_000, isMounted);

  expect(await sweep(undefined)).toEqual([]);
  expect(existsSync(cache.path)).toBe(true);

  await removeOwnPlaces(settings, OPERATION);
  expect(existsSync(cache.path)).toBe(false);
});
