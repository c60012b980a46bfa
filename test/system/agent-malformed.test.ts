/* What is no request to the agent of a real node worker: refused each time, by its own fault, and the agent is as before. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Client, Connection } from '@temporalio/client';
import { afterAll, beforeAll, expect, it } from 'vitest';

import { nothingLeft } from '../harness/aftermath.ts';
import { EVERY_KIND, malformedRequest } from '../harness/malformed-requests.ts';
import { fromLane } from '../harness/provided.ts';
import { seeded } from '../harness/random.ts';
import { sendHttp, type Answer } from '../harness/refusals.ts';
import { times } from '../harness/soak.ts';
import { Stack, until } from '../harness/stack.ts';

const REQUESTS = Math.max(6 * EVERY_KIND, times(2000));
const SEED = 8;
/** gRPC: INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, UNIMPLEMENTED. */
const REFUSALS: ReadonlySet<number> = new Set([3, 5, 7, 8, 9, 10, 12]);
/** What gRPC itself says of a compressed message that it cannot decompress. Source: grpc, doc/compression.md. */
const INTERNAL = 13;
/** Of memory that Node has not yet given back. */
const GROWTH_BYTES = 200 * 2 ** 20;
const LONGEST_ANSWER = 8192;

let stack: Stack;
let connection: Connection;
let socket: string;

beforeAll(async () => {
  stack = await Stack.open();
  connection = await Connection.connect({ address: fromLane('temporal').address });
  socket = join(stack.runDir, 'agent.sock');
});
afterAll(async () => {
  await connection.close();
  await stack.close();
});

function isRefusal({ by, code, type, text }: Answer, noRequest = false): boolean {
  switch (by) {
    case 'http':
      return code >= 400 && code < 500 && type !== 'Internal' && text.length < LONGEST_ANSWER;
    case 'grpc':
      return REFUSALS.has(code) || (code === INTERNAL && type === '' && text.includes('decompress'));
    case 'closed':
      return noRequest;
    default:
      return false;
  }
}

const workflows = async (): Promise<number> => {
  const client = new Client({ connection, namespace: fromLane('temporal').namespace });
  return (await client.workflow.count()).count;
};

function residentBytes(): number {
  const status = readFileSync(`/proc/${stack.pidOf('worker-node')}/status`, 'utf8');
  return Number(/^VmRSS:\s*(\d+) kB/m.exec(status)?.[1]) * 1024;
}

const descriptors = (): number => readdirSync(`/proc/${stack.pidOf('worker-node')}/fd`).length;

async function post(path: string, body: object): Promise<Answer> {
  return sendHttp(socket, { method: 'POST', path, body: Buffer.from(JSON.stringify(body)) });
}

it(`${REQUESTS} malformed requests are refused each by its own fault, start nothing, and the agent is as it was`, async () => {
  const random = seeded(SEED);
  const before = { pid: stack.pidOf('worker-node'), workflows: await workflows(), descriptors: descriptors() };
  const resident = residentBytes();
  const wrong: object[] = [];

  for (let turn = 0; turn < REQUESTS; turn += 1) {
    const { what, send, noRequest } = malformedRequest(turn, random);
    const answer = await send(socket).catch((error: unknown): Answer => {
      return { by: 'closed', code: -1, text: String(error), type: 'hangs' };
    });
    if (!isRefusal(answer, noRequest && answer.code === 0)) {
      wrong.push({ turn, what, ...answer, text: answer.text.slice(0, 300) });
    }
  }

  expect(wrong).toEqual([]);
  expect(await sendHttp(socket, { method: 'GET', path: '/v1/health' })).toMatchObject({ code: 200 });
  const ended = await post('/v1/checkpoint', { container: { id: 'nobody' }, waitMs: 60_000 });
  expect(ended.text).toContain('ContainerNotFound');
  // Temporal has listed this one by now, hence would have listed others.
  await until('the one that was asked for', async () => (await workflows()) > before.workflows);
  expect(await workflows()).toBe(before.workflows + 1);
  await nothingLeft(stack);
  await until('the end of every connection', () => descriptors() <= before.descriptors + 4);
  expect(stack.pidOf('worker-node')).toBe(before.pid);
  expect(residentBytes() - resident).toBeLessThan(GROWTH_BYTES);
}, 600_000);
