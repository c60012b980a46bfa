/* A caller's own trace goes on in the operation that it starts, whichever way it asks. */
import { mkdtempSync, rmSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client, credentials, Metadata } from '@grpc/grpc-js';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { KybernateError } from '../core/errors.ts';
import { listenToSpans } from '../core/spans.ts';
import type { NodeDeps } from '../engine/node-deps.ts';
import { startAgent, type AgentServer } from './agent.ts';
import { loadProto, serviceOf } from './grpc-service.ts';

const TRACE = `00-${'ab'.repeat(16)}-${'cd'.repeat(8)}-01`;
const silent = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };

let dir: string;
let agent: AgentServer;
/** traces within which an operation was started */
let started: Array<string | undefined>;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'agent-traces-'));
  started = [];
  let around: string | undefined;
  listenToSpans({
    during: (_name, _fields, act) => act(),
    past: () => undefined,
    current: () => around,
    async within(parent, act) {
      around = parent;
      try {
        return await act();
      } finally {
        around = undefined;
      }
    },
  });
  const refuse = (): Promise<never> => {
    started.push(around);
    return Promise.reject(new KybernateError('ContainerNotFound', 'nobody is here'));
  };
  const settings = { node: 'n', runDir: join(dir, 'run'), stateDir: join(dir, 'state') };
  agent = await startAgent({
    deps: { settings } as unknown as NodeDeps,
    log: silent,
    fetchCheckpoint: refuse,
    operations: {
      client: { checkpoint: refuse, restore: refuse, describe: refuse, find: refuse },
      catalog: { list: () => Promise.resolve({ checkpoints: [], damaged: [] }) },
      backend: refuse,
    },
  });
});

afterEach(async () => {
  listenToSpans(undefined);
  await agent.close();
  rmSync(dir, { recursive: true, force: true });
});

function byHttp(headers: Readonly<Record<string, string>>): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const { socketPath } = agent;
    const sent = request({ socketPath, method: 'POST', path: '/v1/checkpoint', headers, agent: false }, (answer) => {
      answer.resume().on('end', () => resolve(answer.statusCode));
    });
    sent.on('error', reject).end('{"container":{"id":"web"}}');
  });
}

function byGrpc(metadata: Metadata): Promise<unknown> {
  const grpc = new Client(`unix:${agent.socketPath}`, credentials.createInsecure());
  const { path, requestSerialize, responseDeserialize } = serviceOf(
    loadProto('agent.proto'),
    'kybernate.agent.v1.NodeAgentService',
  )['Checkpoint'] as unknown as {
    path: string;
    requestSerialize: (value: object) => Buffer;
    responseDeserialize: (bytes: Buffer) => object;
  };
  return new Promise((resolve) => {
    grpc.makeUnaryRequest(
      path,
      requestSerialize,
      responseDeserialize,
      { container: { id: 'web' } },
      metadata,
      (error) => {
        grpc.close();
        resolve(error?.metadata.get('kybernate-error'));
      },
    );
  });
}

it('by the header traceparent, and by the metadata of that name', async () => {
  const metadata = new Metadata();
  metadata.set('traceparent', TRACE);

  expect(await byHttp({ traceparent: TRACE })).toBe(404);
  expect(await byGrpc(metadata)).toEqual(['ContainerNotFound']);

  expect(started).toEqual([TRACE, TRACE]);
});

it('by none where there is none, or nothing that is one', async () => {
  const metadata = new Metadata();
  metadata.set('traceparent', '00-zz');

  expect(await byHttp({})).toBe(404);
  expect(await byGrpc(new Metadata())).toEqual(['ContainerNotFound']);
  expect(await byGrpc(metadata)).toEqual(['ContainerNotFound']);

  expect(started).toEqual([undefined, undefined, undefined]);
});
