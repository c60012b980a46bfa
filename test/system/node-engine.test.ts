import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { openContainerd } from '../../cli/dev/containerd-client.ts';
import { liveConnections } from '../../engine/live-processes.ts';
import { analyzeContainer } from '../../engine/analysis.ts';
import type { Analysis, AnalysisRequest } from '../../engine/analysis-result.ts';
import type { ContainerFacts } from '../../engine/container-facts.ts';
import { probeNodeFacts } from '../../engine/facts.ts';
import { NO_FINDINGS } from '../../engine/gpu/analysis.ts';
import { inspectContainer } from '../../engine/inspect.ts';
import type { NodeDeps } from '../../engine/node-deps.ts';
import { checkSource } from '../../engine/preflight/source.ts';
import { connectContainerd } from '../../native/containerd/client.ts';
import { withForeignFd, withPidfd } from '../../native/libc/pidfd.ts';
import { enterTcpRepair } from '../../native/libc/socket.ts';
import { deleteTable, holdConnections, listTables } from '../../native/net/nft.ts';
import { ownedSockets } from '../../native/net/socket-kinds.ts';
import { leaveTcpRepair, socketsInRepair } from '../../native/net/tcp-repair.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { testDeps } from '../harness/node-deps.ts';
import { makeNetworkNamespace } from '../harness/network.ts';
import { BUSYBOX, PYTHON, until } from '../harness/stack.ts';
import { fromLane } from '../harness/provided.ts';

const READY = 'open("/run/ready","w").close()';
const SLEEP = 'import time\nwhile True: time.sleep(60)';
let deps: NodeDeps;
let namespace: string;
let dir: string;
const running: string[] = [];

beforeAll(() => {
  const provided = fromLane('containerd');
  namespace = provided.namespace;
  deps = testDeps(connectContainerd(provided.address));
  dir = mkdtempSync(join(provided.dir, 'engine-'));
});
afterEach(async () => {
  for (const id of running.splice(0)) {
    await deps.containerd.resumeTask(namespace, id).catch(() => undefined);
    await ctr('tasks', 'kill', '-s', '9', '-a', id).catch(() => undefined);
    await until(`the end of ${id}`, async () => {
      const task = await deps.containerd.getTask(namespace, id);
      return task === undefined || task.status === 'stopped';
    });
    await ctr('tasks', 'rm', id).catch(() => undefined);
    await ctr('containers', 'rm', id);
  }
});
afterAll(() => {
  deps.containerd.close();
  rmSync(dir, { recursive: true });
});

function ctr(...args: string[]): Promise<string> {
  return openContainerd(fromLane('containerd').dir, process.env).ctrOk(['-n', namespace, ...args]);
}

async function start(
  id: string,
  image: string,
  command: readonly string[],
  flags: readonly string[] = [],
): Promise<void> {
  running.push(id);
  await ctr('run', '-d', '--null-io', ...flags, image, id, ...command);
}

/** A Python program that says when it has come to its last line. */
async function python(id: string, program: string, flags: readonly string[] = []): Promise<ContainerFacts> {
  await start(id, PYTHON, ['/usr/bin/python3', '-c', `${program}\n${READY}\n${SLEEP}`], flags);
  const pid = (await deps.containerd.getTask(namespace, id))?.pid ?? 0;
  await until('the program', () => statSync(`/proc/${pid}/root/run/ready`, { throwIfNoEntry: false }) !== undefined);
  return inspectContainer(deps, { namespace, id });
}

function analyze(facts: ContainerFacts, request: Partial<AnalysisRequest> = {}): Promise<Analysis> {
  return analyzeContainer(deps, facts, { engine: 'runc', tcp: 'keep', after: 'resume', ...request });
}

function optionsOf(analysis: Analysis): string[] {
  return analysis.options.map(({ option }) => option);
}

test('a plain container is inspected whole and needs next to no options', async () => {
  await start('plain', BUSYBOX, ['sh', '-c', 'sleep 1000 & while :; do sleep 1; done']);

  const facts = await inspectContainer(deps, { namespace, id: 'plain' });
  const analysis = await analyze(facts);

  expect(facts.processes.map(({ nsPid, command, entered }) => [nsPid, command, entered])[0]).toEqual([1, 'sh', false]);
  expect(facts).toMatchObject({
    foreignHostPids: [],
    runcRoot: `/run/containerd/runc/${namespace}`,
    networkNamespace: { private: true, kind: 'own' },
    stdio: { terminal: false, stdin: 'null', stdout: 'null', stderr: 'null' },
    image: { ref: BUSYBOX },
  });
  expect(facts.bundle).toContain('/plain');
  expect(facts.freezer.path).toContain(`${namespace}/plain`);
  expect(statSync(facts.upperDir ?? '').isDirectory()).toBe(true);
  expect(optionsOf(analysis)).toEqual(['manage-cgroups-mode ignore', 'network-lock skip']);
  expect(analysis).toMatchObject({ refusals: [], warnings: [], linkRemap: false, gpuHolders: [] });
  await checkSource(deps, { facts, analysis, gpu: NO_FINDINGS, nodeFacts: await probeNodeFacts(deps) });
});

test('a process that came in by exec is told apart and warned about', async () => {
  await start('entered', BUSYBOX, ['sleep', '1000']);
  await ctr('tasks', 'exec', '-d', '--exec-id', 'x1', 'entered', 'sleep', '2000');

  const facts = await inspectContainer(deps, { namespace, id: 'entered' });

  expect(facts.processes.map((process) => process.entered)).toEqual([false, true]);
  expect((await analyze(facts)).warnings).toEqual([expect.stringMatching(/sleep.*came in by exec/)]);
});

test('a container paused by somebody else is refused with that reason', async () => {
  await start('paused', BUSYBOX, ['sleep', '1000']);
  await deps.containerd.pauseTask(namespace, 'paused');

  await expect(inspectContainer(deps, { namespace, id: 'paused' })).rejects.toThrow(/somebody else has paused it/);
});

test('a terminal needs shell-job', async () => {
  running.push('terminal');
  const { address } = fromLane('containerd');
  // ctr wants a terminal of its own for this
  const command = `${fromLane('programs').ctr} -a ${address} -n ${namespace} run -d -t ${BUSYBOX} terminal sleep 1000`;
  await runExeca('script', ['-qec', command, '/dev/null'], { env: { PATH: fromLane('containerd').path } });

  const facts = await inspectContainer(deps, { namespace, id: 'terminal' });

  expect(facts.stdio).toMatchObject({ terminal: true, stdin: 'terminal' });
  expect((await analyze(facts)).runcFlags).toContain('--shell-job');
});

test('deleted files, files with another name and locks each bring their option', async () => {
  const facts = await python(
    'files',
    `
import fcntl, os
a = open("/tmp/ghost", "wb"); a.write(b"x" * 3_000_000); a.flush(); os.remove("/tmp/ghost")
b = open("/tmp/linked", "wb"); os.link("/tmp/linked", "/tmp/other"); os.remove("/tmp/linked")
c = open("/tmp/lock", "wb"); fcntl.flock(c, fcntl.LOCK_EX)`,
  );

  const analysis = await analyze(facts);

  expect(optionsOf(analysis)).toEqual(
    expect.arrayContaining(['link-remap', expect.stringMatching(/^ghost-limit \d{7}$/), 'file-locks']),
  );
  expect(analysis).toMatchObject({ linkRemap: true, refusals: [] });
  expect(analysis.estimatedBytes).toBeGreaterThan(16 * 1024 * 1024 + 3_000_000);
  expect((await analyze(facts, { engine: 'containerd' })).refusals).toEqual([
    expect.stringMatching(/cannot pass link-remap/),
    expect.stringMatching(/cannot pass ghost-limit/),
  ]);
});

test('half of a unix connection is refused with both processes', async () => {
  mkdirSync(join(dir, 'shared'));
  const server = createServer().listen(join(dir, 'shared/s'));
  await once(server, 'listening');
  const mount = `type=bind,src=${join(dir, 'shared')},dst=/shared,options=rbind:rw`;

  const facts = await python('half', 'import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect("/shared/s")', [
    '--mount',
    mount,
  ]);
  const { refusals } = await analyze(facts);

  expect(refusals).toEqual([expect.stringMatching(new RegExp(`python3.*process ${process.pid} .*outside`))]);
  server.close();
});

test('io_uring is refused with its reason and its fix', async () => {
  const facts = await python(
    'uring',
    'import ctypes\nlibc = ctypes.CDLL(None)\nassert libc.syscall(425, 2, (ctypes.c_char * 120)()) >= 0',
  );
  const analysis = await analyze(facts);

  const attempt = checkSource(deps, { facts, analysis, gpu: NO_FINDINGS, nodeFacts: await probeNodeFacts(deps) });

  await expect(attempt).rejects.toMatchObject({ type: 'Incompatible' });
  await expect(attempt).rejects.toThrow(/python3.*uses io_uring.*UV_USE_IO_URING=0/);
});

/** Counts the answers of an echo server. */
class Echo {
  readonly #socket: Socket;
  received = 0;

  constructor(host: string, port: number) {
    this.#socket = connect({ host, port });
    this.#socket.on('data', (chunk) => (this.received += chunk.length));
  }

  async ask(): Promise<void> {
    this.#socket.write('x');
    await new Promise((resolve) => setImmediate(resolve));
  }

  close(): void {
    this.#socket.destroy();
  }
}

test('connections are found, held without a reset, and brought out of repair mode', async () => {
  const network = await makeNetworkNamespace('kybengine', 17);
  let echo: Echo | undefined;
  try {
    const program = `
import socket, threading
def serve(c):
    while True:
        data = c.recv(64)
        if not data: return
        c.sendall(data)
def accept(s):
    while True: threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
s = socket.create_server(("0.0.0.0", 7002))
threading.Thread(target=accept, args=(s,), daemon=True).start()`;
    await python('tcp', program, ['--with-ns', `network:${network.path}`]);
    const client = new Echo(network.address, 7002);
    echo = client;
    await client.ask();
    await until('an answer', () => client.received === 1);

    const facts = await inspectContainer(deps, { namespace, id: 'tcp' });
    const keep = await analyze(facts);
    const close = await analyze(facts, { tcp: 'close' });
    expect(facts.networkNamespace).toMatchObject({ private: false, kind: 'joined', path: network.path });
    const connections = liveConnections(facts);
    expect(connections).toMatchObject([{ local: { address: network.address, port: 7002 } }]);
    expect(keep.tcpPorts).toEqual([7002]);
    expect(keep.runcFlags).toEqual(expect.arrayContaining(['--tcp-established', '--tcp-skip-in-flight']));
    expect(keep.criuConfig).toContain('network-lock nftables');
    expect(close.criuConfig).toEqual(expect.arrayContaining(['tcp-close', 'network-lock skip']));

    await holdConnections(runExeca, facts.initHostPid, 'kybernate-test', connections);
    await holdConnections(runExeca, network.path, 'kybernate-test', connections);
    expect(await listTables(runExeca, facts.initHostPid)).toEqual([{ family: 'inet', name: 'kybernate-test' }]);
    await client.ask();
    const other = new Echo(network.address, 7002);
    await other.ask();
    await until('an answer of another connection', () => other.received === 1);
    other.close();
    expect(client.received).toBe(1);
    await deleteTable(runExeca, network.path, { family: 'inet', name: 'kybernate-test' });
    await deleteTable(runExeca, network.path, { family: 'inet', name: 'kybernate-test' });
    await until('the held answer', () => client.received === 2);

    const established = connections[0]?.remote.port;
    const inode = repair(facts.initHostPid, established ?? 0);
    expect(socketsInRepair(facts.initHostPid)).toContain(inode);
    expect(leaveTcpRepair(facts.initHostPid)).toContain(inode);
    expect(socketsInRepair(facts.initHostPid)).toEqual([]);
    await client.ask();
    await until('an answer after repair mode', () => client.received === 3);
  } finally {
    echo?.close();
    await network.remove();
  }
});

/** Does to every connected socket of the process what a CRIU that dies leaves behind. */
function repair(hostPid: number, remotePort: number): number {
  expect(remotePort).toBeGreaterThan(0);
  const sockets = ownedSockets(hostPid).filter((socket) => socket.name === 'tcp');
  const connected = sockets.at(-1);
  withPidfd(hostPid, (pidfd) => withForeignFd(pidfd, connected?.fd ?? -1, enterTcpRepair));
  return connected?.inode ?? 0;
}
