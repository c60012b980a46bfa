/* Processes that use one store and are killed at any moment: nothing published is lost, nothing else is left. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { testOp } from '../../test/harness/checkpoint-dir.ts';
import { collect } from '../../test/harness/collect.ts';
import { randomOf } from '../../test/harness/interleaving.ts';
import { faultsOf } from '../../test/harness/quiet-store.ts';
import { makeSources } from '../../test/harness/shared-content.ts';
import { times } from '../../test/harness/soak.ts';
import { fastNow } from '../../test/harness/store-user.ts';
import { openLocalBackend } from '../backend/local.ts';
import { listStored } from '../registry.ts';
import { verifyRemote } from '../verify.ts';

const SCRIPT = join(import.meta.dirname, '../../test/harness/store-user.ts');
const USERS = 3;
const HOUR_MS = 3_600_000;

let root = '';
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kybernate-killed-'));
});
afterEach(async () => {
  vi.useRealTimers();
  await rm(root, { recursive: true, force: true });
});

interface User {
  readonly process: ChildProcess;
  stderr: string;
}

async function startUser(seed: number, startMs: number): Promise<User> {
  const child = spawn(process.execPath, [SCRIPT, join(root, 'store'), root, String(seed), String(startMs)]);
  const user = { process: child, stderr: '' };
  child.stderr.on('data', (text: Buffer) => (user.stderr += text.toString()));
  await Promise.race([once(child.stdout, 'data'), once(child, 'exit')]);
  return user;
}

async function kill({ process: child }: User): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
}

describe('a store whose users are killed', () => {
  it('has lost nothing, and keeps nothing but checkpoints', { timeout: 3_600_000 }, async () => {
    await makeSources(root, ['ck-a', 'ck-b', 'ck-c']);
    const random = randomOf(20_260_101);
    const startMs = Date.now();
    let seed = 0;
    const users = await Promise.all(Array.from({ length: USERS }, () => startUser((seed += 1), startMs)));
    for (let kills = times(200); kills > 0; kills -= 1) {
      await sleep(random() * 1000);
      const victim = Math.floor(random() * USERS);
      const user = users[victim];
      if (user !== undefined) {
        expect({ seed, code: user.process.exitCode, stderr: user.stderr }).toEqual({ seed, code: null, stderr: '' });
        await kill(user);
        users[victim] = await startUser((seed += 1), startMs);
      }
    }
    await Promise.all(users.map(kill));

    const store = await openLocalBackend(join(root, 'store'));
    const { checkpoints } = await listStored(store, testOp());
    for (const { checkpointId } of checkpoints) {
      await verifyRemote({ checkpointId, backend: store, op: testOp() });
    }
    vi.useFakeTimers({ toFake: ['Date'], now: fastNow(startMs) + 30 * HOUR_MS });
    await collect(store, 'last', testOp());

    expect(await faultsOf(store)).toEqual({ missing: [], left: [], damaged: [] });
    expect((await listStored(store, testOp())).checkpoints).toHaveLength(checkpoints.length);
  });
});
