/* The sidecar as it is installed: another user than root, the only one with the store, between root and the bytes. */
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';

import type { TransferStatus } from '../../core/contract/transfer.ts';
import { hasEnded } from '../../core/contract/transfer.ts';
import { withoutSettings } from '../../cli/dev/environment.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { openBackend } from '../../store/backend/open.ts';
import { verifyRemote } from '../../store/verify.ts';
import { SMALL_MEMORY } from '../../workers/memory.ts';
import { sidecarSockets } from '../../workers/sidecar-sockets.ts';
import { checkpointsOf, COUNTER, countsOn, nothingLeft } from '../harness/aftermath.ts';
import { testOp } from '../harness/checkpoint-dir.ts';
import { BUSYBOX, Stack, until } from '../harness/stack.ts';
import { fromLane } from '../harness/provided.ts';

const ACCOUNT = 58_712;

let stack: Stack;
let roots: string;

beforeAll(async () => {
  stack = await Stack.open({
    store: 's3',
    // Compiled code lies where it does on a node, not where tests share it.
    env: { KYBERNATE_SIDECAR_USER: String(ACCOUNT), KYBERNATE_GROUP: String(ACCOUNT), NODE_COMPILE_CACHE: '' },
  });
  await stack.runContainer('counts', BUSYBOX, COUNTER);
});
afterAll(() => stack.close());
beforeEach(() => stack.startWorkers());

function environmentOf(pid: number): string {
  return readFileSync(`/proc/${pid}/environ`, 'utf8');
}

function statusOf(pid: number, field: string): string {
  return new RegExp(`^${field}:\\s*(.*)$`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? '';
}

function ask<Answer>(method: string, path: string, body?: object): Promise<Answer> {
  const { http } = sidecarSockets(stack.runDir);
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath: http, method, path, agent: false }, (answer) => {
      let text = '';
      answer.on('data', (part: Buffer) => (text += part.toString()));
      answer.on('end', () => resolve(JSON.parse(text) as Answer));
    });
    asked.once('error', reject).end(body === undefined ? undefined : JSON.stringify(body));
  });
}

async function transfer(kind: string, call: object): Promise<TransferStatus> {
  let state = await ask<TransferStatus>('POST', `/v1/${kind}`, call);
  await until(`the end of ${kind}`, async () => {
    state = await ask<TransferStatus>('GET', `/v1/transfers/${state.transferId}`);
    return hasEnded(state);
  });
  return state;
}

describe('privileges', () => {
  it('the sidecar is another user, without groups and capabilities; all keys of the store are with it', () => {
    const sidecar = stack.pidOf('sidecar');
    const node = stack.pidOf('worker-node');
    const secret = fromLane('s3').secretAccessKey;

    expect(statusOf(sidecar, 'Uid')).toBe(Array<number>(4).fill(ACCOUNT).join('\t'));
    expect(statusOf(sidecar, 'Gid')).toBe(Array<number>(4).fill(ACCOUNT).join('\t'));
    expect(statusOf(sidecar, 'Groups').trim()).toBe(String(ACCOUNT));
    for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapAmb']) {
      expect(statusOf(sidecar, set), set).toMatch(/^0+$/);
    }
    expect(environmentOf(sidecar)).toContain(secret);
    expect(environmentOf(node)).not.toContain(secret);
    expect(environmentOf(node)).not.toMatch(/AWS_|KYBERNATE_STORE|KYBERNATE_S3/);
  });

  it('it has become a process whose memory stays small, with the pid that it was started with', () => {
    const sidecar = stack.pidOf('sidecar');

    expect(readFileSync(`/proc/${sidecar}/cmdline`, 'utf8').split('\0')).toContain(SMALL_MEMORY.execArgv[0]);
    expect(environmentOf(sidecar)).toContain(`MALLOC_ARENA_MAX=${SMALL_MEMORY.env.MALLOC_ARENA_MAX}`);
  });

  it('its sockets are its own and closed to others, in a directory of root', () => {
    const { dir, grpc, http } = sidecarSockets(stack.runDir);

    expect(lstatSync(dir)).toMatchObject({ uid: 0 });
    for (const path of [grpc, http]) {
      expect(lstatSync(path), path).toMatchObject({ uid: ACCOUNT, gid: ACCOUNT });
      expect(lstatSync(path).mode & 0o777).toBe(0o600);
    }
  });

  it("files of a checkpoint are root's and readable by the group; nothing of the node is open to it but these", async () => {
    const { checkpointId, localPath } = await stack.checkpoint('counts', { durability: 'local' });

    const inside = readdirSync(localPath, { recursive: true, encoding: 'utf8' }).map((name) => join(localPath, name));
    for (const path of [localPath, ...inside]) {
      const { uid, gid, mode } = lstatSync(path);
      expect({ path, uid, gid, mode: mode & 0o7777 }).toEqual({
        path,
        uid: 0,
        gid: ACCOUNT,
        mode: statSync(path).isDirectory() ? 0o750 : 0o640,
      });
    }
    const open = readdirSync(stack.stateDir).filter((name) => {
      const { gid, mode } = lstatSync(join(stack.stateDir, name));
      return (gid === ACCOUNT && (mode & 0o070) !== 0) || (mode & 0o006) !== 0;
    });
    // Compiled code of the program: nobody's secret, and only root writes it.
    expect(open).toEqual(['checkpoints', 'compile-cache']);
    // Of a link what it leads to: its own mode means nothing.
    const modeOf = (name: string): number => statSync(join(stack.runDir, name), { throwIfNoEntry: false })?.mode ?? 0;
    const run = readdirSync(stack.runDir).filter((name) => (modeOf(name) & 0o066) !== 0);
    expect(run).toEqual([]);
    stack.removeLocal(checkpointId);
  });

  it('a second sidecar of the node is refused', async () => {
    const env = { ...withoutSettings(process.env), ...stack.variables };
    const main = join(import.meta.dirname, '../../cli/main.ts');

    const second = await runExeca(process.execPath, [main, 'sidecar'], { env, timeoutMs: 60_000 });

    expect(second.exitCode).not.toBe(0);
    expect(second.stderr).toContain('another sidecar serves');
  });
});

describe('a checkpoint', () => {
  it('goes out by the sidecar and comes back through it onto another disk', async () => {
    const { checkpointId } = await stack.checkpoint('counts', { durability: 'verified' });
    expect((await checkpointsOf(stack)).pending).toEqual([]);
    const first = stack.stateDir;

    await stack.changeStateDir(join(stack.dir, 'other-disk'));
    const { from, fetchedBytes } = await stack.restore(checkpointId, 'elsewhere');

    expect(from).toBe('store');
    expect(fetchedBytes).toBeGreaterThan(0);
    await countsOn(stack, 'elsewhere');
    const files = join(stack.stateDir, `checkpoints/checkpoint-${checkpointId}/manifest.json`);
    expect(lstatSync(files)).toMatchObject({ uid: 0, gid: ACCOUNT });
    await stack.removeContainer('elsewhere');
    stack.removeLocal(checkpointId);
    await stack.changeStateDir(first);
    stack.removeLocal(checkpointId);
    await nothingLeft(stack);
  });

  it('is refused before its container is touched while no sidecar is there, unless local is enough', async () => {
    await stack.stopSidecar();

    const remote = stack.checkpoint('counts', { durability: 'remote' });

    await expect(remote).rejects.toMatchObject({
      type: 'NodeUnavailable',
      message: expect.stringContaining(`no sidecar serves node ${stack.node}: start \`kybernate sidecar\``) as string,
    });
    await nothingLeft(stack);
    const { checkpointId } = await stack.checkpoint('counts', { durability: 'local' });
    expect((await stack.restore(checkpointId, 'local-only')).from).toBe('local');
    await stack.removeContainer('local-only');
    stack.removeLocal(checkpointId);
  });

  it('is not restored from the store while no sidecar is there, and is when it is back', async () => {
    const { checkpointId } = await stack.checkpoint('counts', { durability: 'remote' });
    stack.removeLocal(checkpointId);
    await stack.stopSidecar();

    const away = stack.restore(checkpointId, 'away');

    await expect(away).rejects.toMatchObject({
      type: 'StorageUnavailable',
      message: expect.stringContaining(`no sidecar serves node ${stack.node}: start \`kybernate sidecar\``) as string,
    });
    await stack.startWorkers();
    expect((await stack.restore(checkpointId, 'back')).from).toBe('store');
    await countsOn(stack, 'back');
    await stack.removeContainer('back');
    stack.removeLocal(checkpointId);
  });
});

describe('the transfer socket', () => {
  let checkpointId: string;
  beforeAll(async () => {
    ({ checkpointId } = await stack.checkpoint('counts', { durability: 'local' }));
    roots = join(stack.stateDir, 'sidecar/downloads');
  });
  afterAll(() => stack.removeLocal(checkpointId));

  it('uploads a checkpoint of the node and downloads it to a directory of the sidecar', async () => {
    const up = await transfer('upload', { checkpointId, compress: 'lz4' });
    const down = await transfer('download', { checkpointId, destDir: join(roots, 'copy') });

    expect(up).toMatchObject({ status: 'done', location: expect.stringContaining('s3://') as string });
    expect(down).toMatchObject({ status: 'done', hash: up.hash });
    expect(lstatSync(join(roots, 'copy/metadata.json'))).toMatchObject({ uid: ACCOUNT });
    const { endpoint, region, accessKeyId, secretAccessKey } = fromLane('s3');
    const credentials = { accessKeyId, secretAccessKey };
    const store = stack.variables['KYBERNATE_STORE'] ?? '';
    const backend = await openBackend(store, { endpoint, region, credentials });
    expect((await verifyRemote({ checkpointId, backend, op: testOp() })).merkleRoot).toBe(up.hash);
    await backend.close();
  });

  it('stores artifact directories', async () => {
    mkdirSync(join(roots, 'artifacts/deep'), { recursive: true, mode: 0o755 });
    writeFileSync(join(roots, 'artifacts/deep/file'), 'artifact', { mode: 0o644 });

    const up = await transfer('upload', { checkpointId: 'artifacts-1', paths: [join(roots, 'artifacts')] });
    const down = await transfer('download', { checkpointId: 'artifacts-1', destDir: join(roots, 'again') });

    expect([up.status, down.status]).toEqual(['done', 'done']);
    expect(readFileSync(join(roots, 'again/artifacts/deep/file'), 'utf8')).toBe('artifact');
  });

  it.each([
    ['a directory outside of its roots', () => '/etc/kybernate-download'],
    ['a way up', () => join(roots, 'x').replace(/x$/, '../../escaped')],
    ['a symbolic link', () => join(roots, 'link/x')],
  ])('writes nothing to %s', async (_, destDir) => {
    if (!existsSync(join(roots, 'link'))) {
      symlinkSync(stack.dir, join(roots, 'link'));
    }

    const answer = await ask<Partial<TransferStatus> & { error?: { type: string } }>('POST', '/v1/download', {
      checkpointId,
      destDir: destDir(),
    });
    const end =
      answer.transferId === undefined ? answer : await transfer('download', { checkpointId, destDir: destDir() });

    expect(end).toMatchObject({ error: { type: 'InvalidInput' } });
    expect(existsSync('/etc/kybernate-download')).toBe(false);
    expect(readdirSync(stack.dir)).not.toContain('x');
    expect(readdirSync(stack.stateDir)).not.toContain('escaped');
  });

  it('a transfer goes on in the sidecar that follows one that was killed', async () => {
    const { transferId } = await ask<TransferStatus>('POST', '/v1/upload', { checkpointId });
    await stack.kill('sidecar');
    await stack.startWorkers();

    await until('the end of the upload', async () => {
      const state = await ask<TransferStatus>('GET', `/v1/transfers/${transferId}`);
      expect(['queued', 'running', 'done']).toContain(state.status);
      return state.status === 'done';
    });
  });
});
