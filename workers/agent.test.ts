/* The agent on a real socket, called by the wrapper's own client. */
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { KybernateError } from '../core/errors.ts';
import type { Logger } from '../core/op.ts';
import type { NodeDeps } from '../engine/node-deps.ts';
import { readRestore, restoresUsing, takeLease, writeRestore } from '../engine/restore-operation.ts';
import { type Agent, connectAgent } from '../shim/wrapper/node-socket.ts';
import { type AgentServer, startAgent } from './agent.ts';

const OPERATION = '0123456789abcdef0123456789abcdef';
const silent = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };

let dir: string;
let deps: NodeDeps;
let server: AgentServer;
let agent: Agent;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'agent-'));
  deps = {
    settings: {
      node: 'n',
      runDir: join(dir, 'run'),
      stateDir: join(dir, 'state'),
      restoreRoots: [],
      restoreFromEnvironment: false,
    },
  } as unknown as NodeDeps;
  server = await start();
  agent = connectAgent(server.socketPath);
});

afterEach(async () => {
  await server.close();
  rmSync(dir, { recursive: true, force: true });
});

const noCheckpoint = (id: string): Promise<string> =>
  Promise.reject(new KybernateError('CheckpointNotFound', `no ${id}`, { details: { id } }));

function start(fetchCheckpoint = noCheckpoint, log: Logger = silent): Promise<AgentServer> {
  return startAgent({ deps, log, fetchCheckpoint });
}

function register(state: 'registered' | 'restored' = 'registered'): void {
  writeRestore(deps.settings, {
    operationId: OPERATION,
    container: { namespace: 'default', id: 'web' },
    madeBy: 'worker',
    checkpointId: 'ck-1',
    checkpointDir: '/c',
    imageDir: '/c/criu',
    hasMetadata: true,
    snapshotter: '',
    tcp: 'keep',
    onFailure: 'cold-start',
    restoreBudgetMs: 5000,
    stdio: { kind: 'null' },
    terminal: false,
    attempt: 0,
    state,
  });
}

const CALL = {
  operationId: OPERATION,
  restoreFrom: 'ck-1',
  origin: 'annotation',
  container: { id: 'web', namespace: 'default' },
  bundle: '/bundle',
} as const;

function get(path: string): Promise<{ status: number | undefined; body: string }> {
  return new Promise((resolve, reject) => {
    request({ socketPath: server.socketPath, path }, (response) => {
      let body = '';
      response.on('data', (chunk: Buffer) => (body += chunk.toString()));
      response.on('end', () => resolve({ status: response.statusCode, body }));
    })
      .on('error', reject)
      .end();
  });
}

describe('the socket', () => {
  it('can be opened by its owner alone', () => {
    expect(statSync(server.socketPath).mode & 0o777).toBe(0o600);
    expect(statSync(join(dir, 'run')).mode & 0o777).toBe(0o711);
  });

  it('takes the place of one whose agent died, never of one that answers', async () => {
    await expect(start()).rejects.toThrow(/another agent/);
    await server.close();
    writeFileSync(server.socketPath, '');

    server = await start();

    expect((await get('/v1/health')).body).toContain('"status":"ok"');
  });
});

describe('a call', () => {
  it.each([
    ['/v1/health', 200, '"node":"n"'],
    ['/v1/nothing', 400, '"type":"InvalidInput"'],
  ])('of %s is answered with %i', async (path, status, text) => {
    const answer = await get(path);

    expect(answer.status).toBe(status);
    expect(answer.body).toContain(text);
  });

  it('with a wrong field is refused by its name', async () => {
    await expect(agent.prepareRestore({ ...CALL, bundle: 'relative' })).rejects.toMatchObject({
      type: 'InvalidInput',
      message: expect.stringContaining('bundle'),
    });
  });

  it('brings the error of the store to the wrapper, type, message and details', async () => {
    const { operationId: _id, ...foreign } = CALL;

    await expect(agent.prepareRestore(foreign)).rejects.toMatchObject({
      type: 'CheckpointNotFound',
      message: 'no ck-1',
      details: { id: 'ck-1' },
    });
    expect(restoresUsing(deps.settings, 'ck-1')).toEqual([]);
  });

  it('whose caller goes away leaves nothing, at once, while what it asked for is still being brought', async () => {
    await server.close();
    const ended = Promise.withResolvers<string>();
    const brought = Promise.withResolvers<string>();
    const asked = Promise.withResolvers<void>();
    const fetch = (): Promise<string> => {
      asked.resolve();
      return brought.promise;
    };
    server = await start(fetch, {
      ...silent,
      info: (_fields, message) => void (/ended/.test(message) && ended.resolve(message)),
    });
    const stop = new AbortController();
    const { operationId: _id, ...foreign } = CALL;
    const call = connectAgent(server.socketPath).prepareRestore(foreign, stop.signal);
    await asked.promise;
    expect(restoresUsing(deps.settings, 'ck-1')).toHaveLength(1);

    stop.abort(new Error('ended by SIGTERM'));

    await expect(call).rejects.toThrow('ended by SIGTERM');
    expect(await ended.promise).toBe('call ended: its caller went away');
    expect(restoresUsing(deps.settings, 'ck-1')).toEqual([]);
    brought.reject(new Error('later, and nobody cares'));
  });

  it('to an agent that is away is NodeUnavailable', async () => {
    await expect(connectAgent(join(dir, 'nobody.sock')).prepareRestore(CALL)).rejects.toMatchObject({
      type: 'NodeUnavailable',
      message: expect.stringContaining('ENOENT'),
    });
  });

  it('to something else on the socket is an error that says so', async () => {
    const other = createServer((_request, response) => response.end('hello'));
    const path = join(dir, 'other.sock');
    await new Promise<void>((resolve) => other.listen(path, resolve));

    await expect(connectAgent(path).prepareRestore(CALL)).rejects.toThrow(/no JSON/);

    other.close();
  });
});

describe('a restore', () => {
  it('of a container that the worker made joins its operation, with a fresh work directory each time', async () => {
    register();

    const first = await agent.prepareRestore({ ...CALL, tcp: 'close', onFailure: 'fail' });
    const second = await agent.prepareRestore(CALL);

    expect(first).toMatchObject({
      operationId: OPERATION,
      tcp: 'keep',
      onFailure: 'cold-start',
      restoreBudgetMs: 5000,
    });
    expect(second.workDir).not.toBe(first.workDir);
    expect(existsSync(second.workDir)).toBe(true);
    expect(restoresUsing(deps.settings, 'ck-1')).toEqual([OPERATION]);
  });

  it('of another container does not', async () => {
    register();

    await expect(agent.prepareRestore({ ...CALL, container: { id: 'db' } })).rejects.toMatchObject({
      type: 'RestoreRefused',
    });
  });

  it('of a container that is started again after its operation is looked up anew', async () => {
    register('restored');

    await expect(agent.prepareRestore(CALL)).rejects.toMatchObject({ type: 'CheckpointNotFound' });
  });

  it('gives the checkpoint free when it is complete, and keeps its outcome for the worker', async () => {
    register();
    await agent.prepareRestore(CALL);

    const answer = await agent.completeRestore(
      {
        operationId: OPERATION,
        container: { id: 'web' },
        outcome: 'restored',
        initHostPid: 12,
        restoreMs: 34,
      },
      5000,
    );

    expect(answer).toEqual({ proceed: true });
    expect(restoresUsing(deps.settings, 'ck-1')).toEqual([]);
    expect(readRestore(deps.settings, OPERATION)).toMatchObject({ state: 'restored', restoreMs: 34 });
  });

  it('that failed leaves its log on disk and stays leased for the next attempt', async () => {
    register();
    const { workDir } = await agent.prepareRestore(CALL);
    writeFileSync(join(workDir, 'restore.log'), 'Error');

    await agent.completeRestore(
      {
        operationId: OPERATION,
        container: { id: 'web' },
        outcome: 'failed',
        initHostPid: 0,
        restoreMs: 1,
        errors: ['why'],
      },
      5000,
    );

    const record = readRestore(deps.settings, OPERATION);
    expect(record).toMatchObject({ state: 'failed', errors: ['why'] });
    expect(existsSync(join(record?.savedLogs ?? '', 'restore.log'))).toBe(true);
    expect(restoresUsing(deps.settings, 'ck-1')).toEqual([OPERATION]);
  });

  it('whose wrapper died is ended once the bundle is gone; that of a worker is left to its workflow', async () => {
    register();
    await agent.prepareRestore({ ...CALL, bundle: join(dir, 'gone') });
    const foreign = 'f'.repeat(32);
    const record = readRestore(deps.settings, OPERATION);
    writeRestore(deps.settings, { ...record!, operationId: foreign, madeBy: 'others' });
    const bundle = join(dir, 'alive');
    mkdirSync(bundle);
    writeRestore(deps.settings, { ...record!, operationId: 'e'.repeat(32), madeBy: 'others', bundle });
    takeLease(deps.settings, 'ck-1', foreign);
    await server.close();

    server = await start();

    expect(readRestore(deps.settings, foreign)).toBeUndefined();
    expect(restoresUsing(deps.settings, 'ck-1')).toEqual([OPERATION, 'e'.repeat(32)]);
  });
});
