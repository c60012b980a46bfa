/* proto/agent.proto and its JSON on one real socket, over a client of workflows that is written out. */
import { mkdtempSync, rmSync } from 'node:fs';
import { request } from 'node:http';
import { createRequire } from 'node:module';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { Client, credentials, status, type ServiceDefinition, type ServiceError } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { WorkflowNotFoundError } from '@temporalio/client';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type * as z from 'zod';
import type { OperationHandle, OperationSummary } from '../client/index.ts';
import { listCheckpointsCall, operationCall, operationRef } from '../core/contract/agent-operations.ts';
import { checkpointInput, healthCheck } from '../core/contract/checkpoint.ts';
import { containerTarget, timeouts } from '../core/contract/common.ts';
import { gpuOptions, workloadHook } from '../core/contract/gpu.ts';
import { livenessProbe } from '../core/contract/liveness.ts';
import { processTarget } from '../core/contract/process.ts';
import { completeRestoreRequest, prepareRestoreRequest, restoreInput } from '../core/contract/restore.ts';
import { KybernateError } from '../core/errors.ts';
import type { NodeDeps } from '../engine/node-deps.ts';
import { startAgent, type AgentOptions, type AgentServer } from './agent.ts';
import type { OperationsDeps } from './agent-operations.ts';
import { loadProto, serviceOf } from './grpc-service.ts';

const SERVICE = 'kybernate.agent.v1.NodeAgentService';
const silent = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
const loaded = loadProto('agent.proto');

let dir: string;
let agent: AgentServer;
let grpc: Client;
/** requests and options of what was started */
let started: unknown[][];
let operation: OperationSummary;
let outcome: PromiseWithResolvers<unknown>;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'agent-calls-'));
  started = [];
  outcome = Promise.withResolvers();
  outcome.promise.catch(() => undefined);
  operation = {
    workflowId: 'checkpoint:default/redis:k1',
    runId: 'run-1',
    type: 'checkpoint',
    status: 'RUNNING',
    startedAt: '2026-01-01T00:00:00.000Z',
    node: 'n',
    container: 'default/redis',
    phase: 'capturing',
  };
  agent = await start();
  grpc = new Client(`unix:${agent.socketPath}`, credentials.createInsecure());
});

afterEach(async () => {
  grpc.close();
  await agent.close();
  rmSync(dir, { recursive: true, force: true });
});

const handle: OperationHandle<never> = {
  workflowId: 'checkpoint:default/redis:k1',
  runId: 'run-1',
  result: () => outcome.promise as Promise<never>,
  progress: () =>
    Promise.resolve({
      phase: 'uploading',
      node: 'n',
      container: 'default/redis',
      checkpointId: 'ck-1',
      phaseStartedAt: '',
      finished: [],
      bytesDone: 5,
      bytesTotal: 10,
    }),
  cancel: () => Promise.resolve(),
  release: () => Promise.resolve(),
};

function start(more: Partial<AgentOptions> = {}): Promise<AgentServer> {
  const client: OperationsDeps['client'] = {
    checkpoint: (...call) => {
      started.push(call);
      return Promise.resolve(handle);
    },
    restore: (...call) => {
      started.push(call);
      return Promise.resolve(handle);
    },
    describe: (workflowId) =>
      workflowId === operation.workflowId
        ? Promise.resolve(operation)
        : Promise.reject(new WorkflowNotFoundError('no workflow', workflowId, undefined)),
    find: () => Promise.resolve(handle),
  };
  const settings = { node: 'n', runDir: join(dir, 'run'), stateDir: join(dir, 'state') };
  return startAgent({
    deps: { settings } as unknown as NodeDeps,
    log: silent,
    fetchCheckpoint: (id) => Promise.reject(new KybernateError('CheckpointNotFound', `no ${id}`)),
    operations: {
      client,
      catalog: { list: () => Promise.resolve({ checkpoints: [], damaged: [] }) },
      backend: () => Promise.reject(new KybernateError('StorageUnavailable', 'no sidecar')),
    },
    ...more,
  });
}

function end(word: string): void {
  operation = { ...operation, status: word, endedAt: '2026-01-01T00:00:01.000Z' };
}

interface Method {
  readonly path: string;
  readonly requestSerialize: (value: object) => Buffer;
  readonly responseDeserialize: (bytes: Buffer) => object;
}

function call(
  name: string,
  message: object,
  service = serviceOf(loaded, SERVICE),
  deadlineMs = 10_000,
): Promise<object> {
  const { path, requestSerialize, responseDeserialize } = service[name] as unknown as Method;
  const options = { deadline: Date.now() + deadlineMs };
  return new Promise((resolve, reject) => {
    grpc.makeUnaryRequest(path, requestSerialize, responseDeserialize, message, options, (error, answer) => {
      if (error === null) {
        resolve(answer ?? {});
      } else {
        reject(error);
      }
    });
  });
}

function http(
  method: string,
  path: string,
  body?: object,
): Promise<{ readonly status: number | undefined; readonly lines: unknown[] }> {
  return new Promise((resolve, reject) => {
    const sent = request({ socketPath: agent.socketPath, method, path }, (response) => {
      let text = '';
      response.on('data', (chunk: Buffer) => (text += chunk.toString()));
      response.on('end', () =>
        resolve({
          status: response.statusCode,
          lines: text
            .trim()
            .split('\n')
            .map((line) => JSON.parse(line) as unknown),
        }),
      );
    });
    sent.on('error', reject).end(body === undefined ? '' : JSON.stringify(body));
  });
}

const REDIS = { container: { id: 'redis' } };

describe('a checkpoint', () => {
  it('is a workflow of this node under the key of its caller, told at once while it runs', async () => {
    const answer = await call('Checkpoint', { ...REDIS, idempotencyKey: 'k1', after: 'stop', labels: { a: 'b' } });

    expect(started).toEqual([
      [{ container: { id: 'redis' }, after: 'stop', labels: { a: 'b' }, node: 'n' }, { generation: 'k1' }],
    ]);
    expect(answer).toMatchObject({
      workflowId: 'checkpoint:default/redis:k1',
      kind: 'checkpoint',
      status: 'running',
      phase: 'uploading',
      checkpointId: 'ck-1',
      bytesDone: 5,
      bytesTotal: 10,
    });
    expect(await http('POST', '/v1/checkpoint', REDIS)).toMatchObject({ status: 202, lines: [{ status: 'running' }] });
  });

  it('is waited for as long as its caller says, and told with its result', async () => {
    const waiting = call('Checkpoint', { ...REDIS, waitMs: 8000 });
    end('COMPLETED');
    outcome.resolve({
      checkpointId: 'ck-1',
      freezeMs: 12.5,
      bytes: { total: 7, stored: 3 },
      warnings: ['w'],
      node: 'n',
    });

    expect(await waiting).toMatchObject({
      status: 'done',
      checkpoint: { checkpointId: 'ck-1', freezeMs: 12.5, bytes: { total: 7, stored: 3 }, warnings: ['w'] },
    });
    const json = await http('POST', '/v1/checkpoint', { ...REDIS, waitMs: 8000 });
    expect(json).toMatchObject({ status: 200, lines: [{ result: { checkpointId: 'ck-1', node: 'n' } }] });
  });

  it('goes on when the time of its call is over', async () => {
    // A busy machine may need all of a call's time to bring it to the agent: the next one has twice as much.
    for (let deadlineMs = 200; started.length === 0; deadlineMs *= 2) {
      await expect(call('Checkpoint', { ...REDIS, waitMs: 8000 }, undefined, deadlineMs)).rejects.toMatchObject({
        code: status.DEADLINE_EXCEEDED,
      });
    }

    expect(await call('GetOperationStatus', { workflowId: operation.workflowId })).toMatchObject({ status: 'running' });
  });

  it.each([
    [{ ...REDIS, idempotencyKey: 'a/b' }, 'idempotencyKey'],
    [{ ...REDIS, node: 'other' }, 'this agent is of n'],
  ])('with %j is refused before anything is started', async (body, why) => {
    expect(await http('POST', '/v1/checkpoint', body)).toMatchObject({
      status: 400,
      lines: [{ error: { type: 'InvalidInput', message: expect.stringContaining(why) as string } }],
    });
    expect(started).toEqual([]);
  });
});

describe('an operation', () => {
  const path = `/v1/operations/${encodeURIComponent('checkpoint:default/redis:k1')}`;

  it('that failed is told with the type of its error', async () => {
    end('FAILED');
    outcome.reject(new KybernateError('DumpFailed', 'criu said no'));

    const error = { type: 'DumpFailed', message: 'criu said no' };
    expect(await call('GetOperationStatus', { workflowId: operation.workflowId })).toMatchObject({
      status: 'failed',
      error,
    });
    expect(await http('GET', path)).toMatchObject({ status: 200, lines: [{ status: 'failed', error }] });
  });

  it('is followed to its end, as a stream and as lines', async () => {
    const {
      path: watch,
      requestSerialize,
      responseDeserialize,
    } = serviceOf(loaded, SERVICE)['WatchOperation'] as unknown as Method;
    const stream = grpc.makeServerStreamRequest(watch, requestSerialize, responseDeserialize, {
      workflowId: operation.workflowId,
    });
    const lines = http('GET', `${path}/watch`);
    const seen: unknown[] = [];
    for await (const state of stream) {
      seen.push(state);
      end('CANCELLED');
    }

    expect(seen).toMatchObject([{ status: 'running' }, { status: 'cancelled' }]);
    expect((await lines).lines.at(-1)).toMatchObject({ status: 'cancelled' });
  });

  it('that nobody started is refused by its name', async () => {
    const error: unknown = await call('GetOperationStatus', { workflowId: 'nothing' }).catch(
      (thrown: unknown) => thrown,
    );

    expect(error).toMatchObject({ code: status.INVALID_ARGUMENT });
    expect((error as ServiceError).metadata.get('kybernate-error')).toEqual(['InvalidInput']);
    expect(await http('GET', '/v1/operations/%E0%A4%A/watch')).toMatchObject({ status: 400 });
  });
});

describe('the list of checkpoints', () => {
  it('names what could not be read, and is refused for a limit that is none', async () => {
    expect(await http('GET', '/v1/checkpoints')).toMatchObject({
      status: 200,
      lines: [{ checkpoints: [], more: 0, problems: ['the store is not shown: no sidecar'] }],
    });
    expect(await http('GET', '/v1/checkpoints?localOnly=true')).toMatchObject({ lines: [{ problems: [] }] });
    expect(await http('GET', '/v1/checkpoints?limit=many')).toMatchObject({ status: 400 });
    expect(await call('ListCheckpoints', { limit: 5 })).toEqual({
      more: 0,
      problems: ['the store is not shown: no sidecar'],
    });
  });
});

describe('the socket', () => {
  it('has health and reflection services', async () => {
    const health = loadSync('health/v1/health.proto', {
      includeDirs: [join(dirname(createRequire(import.meta.url).resolve('grpc-health-check')), '../../proto')],
      enums: String,
    });
    const reflection = loadSync('grpc/reflection/v1/reflection.proto', {
      includeDirs: [join(dirname(createRequire(import.meta.url).resolve('@grpc/reflection')), '../proto')],
    });

    expect(
      await call('Check', { service: SERVICE }, health['grpc.health.v1.Health'] as ServiceDefinition),
    ).toMatchObject({ status: 'SERVING' });
    const { path, requestSerialize, responseDeserialize } = (
      reflection['grpc.reflection.v1.ServerReflection'] as ServiceDefinition
    )['ServerReflectionInfo'] as unknown as Method;
    const asked = grpc.makeBidiStreamRequest(path, requestSerialize, responseDeserialize);
    asked.write({ listServices: '*' });
    asked.end();
    const answers: unknown[] = [];
    for await (const answer of asked) {
      answers.push(answer);
    }
    expect(JSON.stringify(answers)).toContain(SERVICE);
  });

  it('takes first bytes that come one by one, and forgets who says nothing when the agent ends', async () => {
    connect(agent.socketPath).on('error', () => undefined);
    const slow = connect(agent.socketPath);
    let text = '';
    slow.on('data', (chunk) => (text += chunk.toString()));
    for (const byte of 'P') {
      slow.write(byte);
    }
    await new Promise((resolve) => setTimeout(resolve, 60));
    slow.write('OST /v1/nothing HTTP/1.1\r\nhost: agent\r\n\r\n');

    await expect.poll(() => text).toContain('the agent has no POST /v1/nothing');
    slow.destroy();
  });

  it('is closed to every other user, whatever its mode says', async () => {
    await agent.close();
    agent = await start({ peerOf: () => ({ pid: 1, uid: 4711, gid: 4711 }) });

    await expect(http('GET', '/v1/health')).rejects.toMatchObject({
      code: expect.stringMatching(/ECONNRESET|EPIPE/) as string,
    });
  });
});

describe('proto/agent.proto', () => {
  const camel = (name: string): string => name.replaceAll(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
  const fieldsOf = (message: string): string[] => {
    const { type } = loaded[`kybernate.agent.v1.${message}`] as { type: { field: Array<{ name: string }> } };
    return type.field.map(({ name }) => camel(name)).sort();
  };
  const keysOf = (schema: { readonly shape: Readonly<Record<string, z.ZodType>> }): string[] =>
    Object.keys(schema.shape);
  const beside = keysOf(operationCall).filter((key) => key !== 'node');

  it.each<[string, string[]]>([
    ['CheckpointRequest', [...keysOf(checkpointInput).filter((key) => key !== 'node'), ...beside]],
    ['RestoreRequest', [...keysOf(restoreInput).filter((key) => key !== 'node'), ...beside]],
    ['ContainerTarget', keysOf(containerTarget)],
    ['ProcessTarget', keysOf(processTarget)],
    ['HealthCheck', keysOf(healthCheck)],
    ['LivenessProbe', keysOf(livenessProbe)],
    ['WorkloadHook', keysOf(workloadHook)],
    ['GpuOptions', keysOf(gpuOptions)],
    ['Timeouts', keysOf(timeouts)],
    ['PrepareRestoreRequest', keysOf(prepareRestoreRequest)],
    // Traces are the wrapper's own, by HTTP.
    ['CompleteRestoreRequest', keysOf(completeRestoreRequest).filter((key) => key !== 'spans')],
    ['OperationRef', keysOf(operationRef)],
    ['ListCheckpointsRequest', keysOf(listCheckpointsCall)],
  ])('has in %s every field of its contract, and no other', (message, keys) => {
    expect(fieldsOf(message)).toEqual([...keys].sort());
  });
});
