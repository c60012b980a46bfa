/* The wrapper as a process of its own, as whoever makes the container meets it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { WrapperBundle } from '../../test/harness/wrapper-bundle.ts';

let made: WrapperBundle;
let agent: Server;
beforeEach(() => {
  made = new WrapperBundle();
});
afterEach(() => {
  agent.close();
  rmSync(made.dir, { recursive: true, force: true });
});

it.each(['cold-start', 'wait'])(
  'ends its wait for the agent at SIGTERM, under the policy %s, and says what becomes of the checkpoint',
  async (policy) => {
    const original = made.asks({ 'kybernate.io/on-failure': policy });
    const asked = Promise.withResolvers<void>();
    const gone = Promise.withResolvers<void>();
    agent = createServer((_request, response) => {
      response.once('close', gone.resolve);
      asked.resolve();
    });
    await new Promise<void>((resolve) => agent.listen(join(made.dir, 'agent.sock'), resolve));
    const env = {
      ...process.env,
      KYBERNATE_RUNC: '/bin/false',
      KYBERNATE_AGENT_SOCKET: join(made.dir, 'agent.sock'),
    };
    const main = join(import.meta.dirname, 'main.ts');
    const wrapper = spawn(process.execPath, ['--no-warnings', main, ...made.argv], {
      env,
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    const said = text(wrapper.stderr);
    const exit = once(wrapper, 'exit') as Promise<[number | null, string | null]>;
    await asked.promise;

    wrapper.kill('SIGTERM');

    expect(await exit).toEqual([143, null]);
    await gone.promise;
    const message =
      /id was not restored from ck-1: ended by SIGTERM after \d+\.\d s of waiting for ck-1; nothing was started, .*the next attempt joins it/;
    expect(await said).toMatch(message);
    const [line = ''] = readFileSync(join(made.dir, 'log.json'), 'utf8').split('\n');
    expect(JSON.parse(line)).toMatchObject({ level: 'error', msg: expect.stringMatching(message) as string });
    expect(readFileSync(made.config(), 'utf8')).toBe(original);
  },
);
