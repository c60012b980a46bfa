/* The wrapper's decisions against a false agent and a false runc; real bundles and checkpoints. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { KybernateError } from '../../core/errors.ts';
import { writeWish } from '../../engine/restore-wishes.ts';
import { runSpawn } from '../../native/run/run-spawn.ts';
import { OK, OPERATION, WrapperBundle } from '../../test/harness/wrapper-bundle.ts';
import { createOrRestore } from './create.ts';
import type { WrapperDeps } from './job.ts';

let made: WrapperBundle;
beforeEach(() => {
  made = new WrapperBundle();
});
afterEach(() => made.remove());

describe('createOrRestore', () => {
  it('leaves a container that asks for nothing to runc, without a word to the agent', async () => {
    writeFileSync(made.config(), JSON.stringify({ process: { args: ['grep', '"RESTORE_FROM='] } }));

    expect(await createOrRestore(made.deps(), made.argv)).toEqual({ kind: 'pass-through' });

    expect(made.prepared).toEqual([]);
  });

  it('starts no container into whose layer of Docker a restore is not over, but that restore itself', async () => {
    const merged = join(made.dir, 'layers/merged');
    mkdirSync(merged, { recursive: true });
    writeFileSync(join(made.dir, 'layers/kybernate-restoring'), OPERATION);
    writeFileSync(made.config(), JSON.stringify({ root: { path: merged }, process: { args: ['true'], env: [] } }));

    expect(await createOrRestore(made.deps(), made.argv)).toEqual({
      kind: 'failed',
      message: expect.stringContaining(`restore ${OPERATION} of container id is not over`) as string,
    });
    expect(made.prepared).toEqual([]);

    const wish = { restoreFrom: 'ck-1', origin: 'annotation', onFailure: 'fail', tcp: 'close' } as const;
    writeWish(made.deps().runDir, 'id', { ...wish, operationId: OPERATION, unverified: false });
    expect(await createOrRestore(made.deps(), made.argv)).toEqual({ kind: 'restored' });
  });

  it('restores with the fitted specification, marks the container and tells the agent its pid', async () => {
    made.asks({}, ['A=1', 'RESTORE_FROM=ck-0']);

    expect(await createOrRestore(made.deps(), made.argv)).toEqual({ kind: 'restored' });

    expect(made.prepared).toMatchObject([
      {
        restoreFrom: 'ck-1',
        origin: 'annotation',
        container: { id: 'id', namespace: 'default' },
        bundle: join(made.dir, 'bundle'),
      },
    ]);
    expect(made.ran[0]).toMatch(/^setpriv --pdeathsig KILL -- \/bin\/runc --root .* restore --detach .* id$/);
    expect(made.ran.slice(1)).toEqual(['criu: tcp-close', 'env in config: A=1']);
    expect(made.completed).toMatchObject([{ operationId: OPERATION, outcome: 'restored', initHostPid: 4711 }]);
    expect(readFileSync(made.marker(), 'utf8').trim()).toBe(OPERATION);
  });

  it('runs the hooks that the agent names when CRIU tells of their event, and fails with what refused', async () => {
    made.asks();
    const { agent } = made.deps();
    // Below a directory that everybody can write.
    const file = join(made.dir, 'hook');
    writeFileSync(file, '#!/bin/sh\n', { mode: 0o755 });
    const answers: string[] = [];

    const outcome = await createOrRestore(
      made.deps({
        run: runSpawn,
        agent: {
          ...agent,
          prepareRestore: async (call) => ({
            ...(await agent.prepareRestore(call)),
            hooks: {
              plan: { timeoutMs: 1000, events: { 'post-restore': { policy: 'fail', files: [file] } } },
              node: 'node-1',
              actionScript: '/state/criu-action-script',
            },
          }),
        },
        runInherited: async (_file, _args, { env = {} }) => {
          made.ran.push(readFileSync(env['CRIU_CONFIG_FILE'] ?? '', 'utf8'), env['KYBERNATE_TELL'] ?? '');
          const script =
            'echo "post-restore 12" >"$KYBERNATE_EVENTS"; read -r answer <"$KYBERNATE_ANSWERS"; echo "$answer"';
          answers.push((await runSpawn('sh', ['-c', script], { env })).stdout);
          return { ...OK, exitCode: 1 };
        },
      }),
      made.argv,
    );

    expect(made.ran.slice(0, 2)).toEqual(['tcp-close\naction-script /state/criu-action-script\n', 'post-restore']);
    expect(answers).toEqual(['stop\n']);
    expect(outcome).toMatchObject({
      kind: 'failed',
      message: expect.stringMatching(
        /hook .*\/hook at post-restore is refused: .* nothing of the restored container is left/,
      ) as string,
    });
    expect(made.completed).toMatchObject([{ outcome: 'failed', errorType: 'HookFailed' }]);
  });

  it('becomes runc with the images of a user namespace open, which its root is shown', async () => {
    const mapping = [{ containerID: 0, hostID: 100_000, size: 65_536 }];
    const linux = { namespaces: [{ type: 'user' }], uidMappings: mapping, gidMappings: mapping };
    writeFileSync(join(made.dir, 'checkpoint/config.json'), JSON.stringify({ linux }));
    const annotations = { 'kybernate.io/restore-from': 'ck-1' };
    writeFileSync(made.config(), JSON.stringify({ annotations, process: { env: [] }, linux }));

    expect(await createOrRestore(made.deps(), made.argv)).toEqual({ kind: 'restored' });

    const [command = ''] = made.ran;
    expect(command).toMatch(/^setpriv --pdeathsig KILL -- unshare --mount --propagation private -- sh -c set -eu/);
    const images = `${join(made.dir, 'checkpoint/criu')} ${join(made.dir, 'work')} 100000 /proc/${process.pid}/ns/mnt /bin/runc`;
    expect(command).toContain(images);
    expect(command).toMatch(/--image-path \/proc\/self\/fd\/9 .* id$/);
  });

  it('tells why the images could not be shown', async () => {
    made.asks();

    const outcome = await createOrRestore(
      made.deps({
        runInherited: () => {
          writeFileSync(join(made.dir, 'work/images.log'), "mount: unknown filesystem type 'overlay'.\n");
          return Promise.resolve({ ...OK, exitCode: 32 });
        },
      }),
      made.argv,
    );

    expect(outcome).toMatchObject({
      message: expect.stringContaining(
        "root of the user namespace: mount: unknown filesystem type 'overlay'",
      ) as string,
    });
  });

  it('starts runc by itself where there is no setpriv', async () => {
    made.asks();
    const { runInherited } = made.deps();

    const outcome = await createOrRestore(
      made.deps({
        runInherited: (file, args, options) =>
          file === 'setpriv'
            ? Promise.resolve({ ...OK, exitCode: 127, startError: 'ENOENT' })
            : runInherited(file, args, options),
      }),
      made.argv,
    );

    expect(outcome.kind).toBe('restored');
    expect(made.ran[0]).toMatch(/^\/bin\/runc --root/);
  });

  it("fails with CRIU's error lines and leaves the bundle as it was", async () => {
    const original = made.asks();

    const outcome = await createOrRestore(made.deps(made.failing()), made.argv);

    expect(outcome).toEqual({
      kind: 'failed',
      message:
        'kybernate: container id was not restored from ck-1: runc restore failed (exit code 1): ' +
        'Error (criu/x.c:1): no such thing',
    });
    expect(readFileSync(made.config(), 'utf8')).toBe(original);
    expect(made.ran.at(-1)).toMatch(/runc .* delete --force id$/);
    expect(made.completed).toMatchObject([{ outcome: 'failed', initHostPid: 0 }]);
  });

  it('starts afresh when the policy says so, with the specification as it was', async () => {
    const original = made.asks({ 'kybernate.io/on-failure': 'cold-start' });

    expect(await createOrRestore(made.deps(made.failing()), made.argv)).toEqual({ kind: 'pass-through' });

    expect(readFileSync(made.config(), 'utf8')).toBe(original);
    expect(made.completed).toMatchObject([{ outcome: 'cold-started' }]);
    expect(made.logged.at(-1)).toMatch(/^warning .*started afresh/);
  });

  it('does not start afresh on files of the checkpoint that it cannot take back', async () => {
    made.asks({ 'kybernate.io/on-failure': 'cold-start' });
    writeFileSync(join(made.dir, 'checkpoint/fs/deleted.files'), '["gone"]');

    const outcome = await createOrRestore(made.deps(made.failing()), made.argv);

    expect(outcome).toMatchObject({ kind: 'failed', message: expect.stringContaining('no cold start either') });
    expect(made.completed).toMatchObject([{ outcome: 'failed' }]);
  });

  it.each([
    ['fail', 'failed'],
    ['cold-start', 'pass-through'],
  ])('follows the policy %s when the agent does not answer', async (policy, kind) => {
    made.asks({ 'kybernate.io/on-failure': policy });
    const prepareRestore = (): Promise<never> =>
      Promise.reject(new KybernateError('NodeUnavailable', 'the agent does not answer'));
    const { agent } = made.deps();

    const outcome = await createOrRestore(made.deps({ agent: { ...agent, prepareRestore } }), made.argv);

    expect(outcome.kind).toBe(kind);
    expect(made.ran).toEqual([]);
    expect(made.completed).toEqual([]);
  });

  it('lets a restored container run when the agent went away in the meantime', async () => {
    made.asks();
    const { agent } = made.deps();
    const completeRestore = (): Promise<never> => Promise.reject(new KybernateError('NodeUnavailable', 'gone'));

    expect(await createOrRestore(made.deps({ agent: { ...agent, completeRestore } }), made.argv)).toEqual({
      kind: 'restored',
    });
  });

  it('ends a restored container whose GPU state the agent could not bring back', async () => {
    made.asks();
    const { agent } = made.deps();
    const completeRestore: WrapperDeps['agent']['completeRestore'] = () => Promise.resolve({ proceed: false });

    const outcome = await createOrRestore(made.deps({ agent: { ...agent, completeRestore } }), made.argv);

    expect(outcome).toMatchObject({ kind: 'failed', message: expect.stringContaining('GPU state') });
    expect(made.ran.at(-1)).toMatch(/delete --force id$/);
  });
});

it('restores a container for which a restore is asked beside it, and asks nothing of its specification', async () => {
  writeFileSync(made.config(), JSON.stringify({ process: { env: [] } }));
  writeWish(join(made.dir, 'run'), 'id', {
    restoreFrom: 'ck-2',
    origin: 'annotation',
    operationId: OPERATION,
    onFailure: 'fail',
    tcp: 'keep',
    unverified: false,
  });

  const outcome = await createOrRestore(made.deps(), made.argv);

  expect(outcome).toEqual({ kind: 'restored' });
  expect(made.prepared).toMatchObject([{ restoreFrom: 'ck-2', operationId: OPERATION, tcp: 'keep' }]);
});
