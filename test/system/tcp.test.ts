import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeNetworkNamespace } from '../harness/network.ts';
import { PYTHON, Stack, until } from '../harness/stack.ts';
import { workload } from '../harness/workloads.ts';

const PORT = 7001;
let stack: Stack;

beforeAll(async () => {
  stack = await Stack.open({ withSidecar: false });
});
afterAll(async () => {
  await stack.close();
});

/** Sends numbered lines and checks the numbering of what comes back. */
class Client {
  readonly #socket;
  received = 0;
  token: string | undefined;
  gaps = 0;
  ended = false;
  #timer: NodeJS.Timeout;

  constructor(host: string, port: number) {
    this.#socket = connect({ host, port });
    this.#socket.on('error', () => (this.ended = true));
    this.#socket.on('close', () => (this.ended = true));
    createInterface({ input: this.#socket }).on('line', (line) => {
      const [token, count] = line.split(' ');
      this.token ??= token;
      this.gaps += token === this.token && Number(count) === this.received + 1 ? 0 : 1;
      this.received = Number(count);
    });
    let sent = 0;
    this.#timer = setInterval(() => {
      sent += 1;
      if (!this.ended) {
        this.#socket.write(`line ${sent}\n`);
      }
    }, 10);
  }

  close(): void {
    clearInterval(this.#timer);
    this.#socket.destroy();
  }
}

test('tcp keep with stop: connections go on in the restored container without a gap', async () => {
  const network = await makeNetworkNamespace('kybkeep', 11);
  const clients: Client[] = [];
  try {
    const flags = [...workload(), '--with-ns', `network:${network.path}`];
    await stack.runContainer('keep', PYTHON, ['/usr/bin/python3', '/w/server.py', String(PORT)], flags);
    await until('the server', () => answers(network.address));
    clients.push(new Client(network.address, PORT), new Client(network.address, PORT));
    await until('traffic', () => clients.every((client) => client.received > 20));

    const { checkpointId, source } = await stack.checkpoint('keep', { after: 'stop', tcp: 'keep' });
    expect(source).toBe('stopped');
    await stack.removeContainer('keep');
    const before = clients.map((client) => client.received);
    await stack.restore(checkpointId, 'keep-back', { tcp: 'keep' });
    await until(
      'traffic after the restore',
      () => clients.every((client, at) => client.received > (before[at] ?? 0) + 20),
      40_000,
    );

    expect(clients.map((client) => client.gaps)).toEqual([0, 0]);
    expect(clients.map((client) => client.ended)).toEqual([false, false]);
  } finally {
    clients.forEach((client) => client.close());
    await stack.removeContainer('keep-back');
    await network.remove();
  }
});

test('a checkpoint with open connections does not disturb them, and tcp close elsewhere lets clients connect anew', async () => {
  const [here, there] = [await makeNetworkNamespace('kybhere', 12), await makeNetworkNamespace('kybthere', 13)];
  const clients: Client[] = [];
  try {
    const flags = [...workload(), '--with-ns', `network:${here.path}`];
    await stack.runContainer('close', PYTHON, ['/usr/bin/python3', '/w/server.py', String(PORT)], flags);
    await until('the server', () => answers(here.address));
    const client = new Client(here.address, PORT);
    clients.push(client);
    await until('traffic', () => client.received > 20);

    const { checkpointId } = await stack.checkpoint('close');
    const seen = client.received;
    await until('traffic after the checkpoint', () => client.received > seen + 20);
    expect([client.gaps, client.ended]).toEqual([0, false]);
    await stack.restore(checkpointId, 'close-back', { tcp: 'close', networkNamespace: there.path });
    const again = new Client(there.address, PORT);
    clients.push(again);
    await until('traffic with the restored server', () => again.received > 20);

    expect(again.token).toBe(client.token);
    expect(client.ended).toBe(false);
  } finally {
    clients.forEach((client) => client.close());
    await stack.removeContainer('close');
    await stack.removeContainer('close-back');
    await here.remove();
    await there.remove();
  }
});

test('connections within the container go on where it came from, beside what its closed ones left', async () => {
  const network = await makeNetworkNamespace('kybpairs', 14);
  const rounds = async (id: string): Promise<number> =>
    (await stack.readJson<{ rounds: number }>(id, '/tmp/state.json')).rounds;
  try {
    const flags = [...workload(), '--with-ns', `network:${network.path}`];
    await stack.runContainer('pairs', PYTHON, ['/usr/bin/python3', '/w/pairs.py'], flags);
    await until('traffic', async () => (await rounds('pairs')) > 20);

    const { checkpointId } = await stack.checkpoint('pairs', { after: 'stop', tcp: 'keep' });
    await stack.removeContainer('pairs');
    await stack.restore(checkpointId, 'pairs-back', { tcp: 'keep', networkNamespace: network.path });

    const first = await rounds('pairs-back');
    await until('traffic after the restore', async () => (await rounds('pairs-back')) > first + 20);
    expect(first).toBeGreaterThan(20);
  } finally {
    await stack.removeContainer('pairs');
    await stack.removeContainer('pairs-back');
    await network.remove();
  }
});

function answers(host: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port: PORT, timeout: 500 });
    socket.on('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
    socket.on('timeout', () => {
      socket.destroy();
      resolve(false);
    });
  });
}
