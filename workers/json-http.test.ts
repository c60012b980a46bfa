import { createServer, request, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readJsonBody, sendJson } from './json-http.ts';
import { sendError } from './wire-errors.ts';

const silent = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
let server: Server;

beforeAll(async () => {
  server = createServer((asked, response) => {
    readJsonBody(asked).then(
      (body) => sendJson(response, 200, { body }),
      (error: unknown) => sendError(silent, asked, response, error),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
});
afterAll(() => new Promise((resolve) => server.close(resolve)));

function send(body: Buffer): Promise<{ readonly status: number | undefined; readonly text: string }> {
  return new Promise((resolve, reject) => {
    const { port } = server.address() as AddressInfo;
    const sent = request({ host: '127.0.0.1', port, method: 'POST', agent: false }, (response) => {
      let text = '';
      response.on('data', (part: Buffer) => (text += part.toString()));
      response.on('end', () => resolve({ status: response.statusCode, text }));
    });
    sent.on('error', reject).end(body);
  });
}

describe('a body', () => {
  it('of JSON is read', async () => {
    expect(await send(Buffer.from('{"a":[1,null,"é"]}'))).toEqual({
      status: 200,
      text: '{"body":{"a":[1,null,"é"]}}\n',
    });
  });

  it.each([
    ['that is too long is refused when it has been sent', Buffer.alloc(3_000_000, 'x'), 'longer than 262144 bytes'],
    ['that is nothing', Buffer.alloc(0), 'not JSON'],
    ['that is not UTF-8', Buffer.from([0x22, 0xc3, 0x28, 0x22]), 'not UTF-8'],
    ['with a prototype, however it is spelt', Buffer.from('{"a":{"\\u005f_proto__":{}}}'), 'a key __proto__'],
    ['that is deeper than any', Buffer.from('['.repeat(100_000) + ']'.repeat(100_000)), 'not JSON'],
  ])('%s is InvalidInput', async (_what, body, why) => {
    const { status, text } = await send(body);

    expect(status).toBe(400);
    expect(JSON.parse(text)).toMatchObject({
      error: { type: 'InvalidInput', message: expect.stringContaining(why) as string },
    });
  });
});
