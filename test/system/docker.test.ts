/* Containers of a real Docker daemon: Docker makes, stops and starts them, and knows every one that was restored. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { shimDirOf } from '../../cli/dev/shim.ts';
import type { RestoreRequest, RestoreResult } from '../../core/contract/restore.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { DOCKER_IMAGES, DockerDaemon } from '../harness/docker.ts';
import { fromLane } from '../harness/provided.ts';
import { Stack, until } from '../harness/stack.ts';

/** `<>` does not empty the file before the write, as `>` does: whoever reads it finds a number, always. */
const COUNTER =
  'i=0; rm -f /count; echo $$-$(cat /proc/sys/kernel/random/uuid) > /token; ' +
  'while :; do i=$((i+1)); echo $i 1<> /count; sleep 0.05; done';

let daemon: DockerDaemon;
let stack: Stack;

beforeAll(async () => {
  daemon = await DockerDaemon.start('d1');
  await daemon.importImages('busybox');
  stack = await Stack.open({ env: daemon.variables });
});
afterAll(async () => {
  await stack?.close();
  await daemon?.close();
});
afterEach(async () => {
  await daemon.removeContainers();
});

/** Through a process of the container: no runtime has to be asked. */
async function read(name: string, path: string): Promise<string> {
  const pid = (await daemon.api.container(name))?.State.Pid ?? 0;
  return readFileSync(`/proc/${pid}/root${path}`, 'utf8').trim();
}

async function count(name: string): Promise<number> {
  return Number(await read(name, '/count').catch(() => '0'));
}

async function run(name: string, flags: readonly string[] = [], script = COUNTER): Promise<void> {
  const network = flags.includes('--network') ? [] : ['--network', 'none'];
  const args = ['--runtime', 'kybernate', ...network, ...flags, DOCKER_IMAGES.busybox, 'sh', '-c', script];
  await daemon.docker('run', '-d', '--name', name, ...args);
  await until(`${name} to count`, async () => (await count(name)) > 5);
}

async function checkpoint(name: string, after: 'resume' | 'stop' = 'resume'): Promise<string> {
  const handle = await stack.client.checkpoint({
    node: stack.node,
    container: { docker: name },
    durability: 'local',
    after,
  });
  return (await handle.result()).checkpointId;
}

async function restore(
  checkpointId: string,
  docker: string | true = true,
  more: Partial<RestoreRequest> = {},
): Promise<RestoreResult> {
  const handle = await stack.client.restore({ node: stack.node, checkpointId, container: { docker }, ...more });
  return handle.result();
}

async function goesOn(name: string, from: number): Promise<void> {
  const first = await count(name);
  expect(first).toBeGreaterThanOrEqual(from);
  expect(first).toBeLessThan(from + 400);
  await until(`${name} to count on`, async () => (await count(name)) > first);
}

describe('a restore through Docker', () => {
  it('continues in the stopped source, with the files of the checkpoint and no others', async () => {
    await run('same');
    await daemon.docker('exec', 'same', 'sh', '-c', 'echo kept > /root/kept; rm /bin/vi');
    const id = await daemon.docker('inspect', '-f', '{{.Id}}', 'same');
    const then = await count('same');
    const token = await read('same', '/token');
    const checkpointId = await checkpoint('same');
    await goesOn('same', then);
    await daemon.docker('exec', 'same', 'sh', '-c', 'echo later > /root/later');
    await daemon.docker('kill', 'same');

    const result = await restore(checkpointId);

    expect(result).toMatchObject({
      how: 'restored',
      docker: { id, name: 'same' },
      container: { namespace: 'moby', id },
    });
    await goesOn('same', then);
    expect(await read('same', '/token')).toBe(token);
    expect(await daemon.docker('exec', 'same', 'sh', '-c', 'ls /root; ls /bin/vi 2>&1 || true')).toMatch(
      /^kept\n.*No such/,
    );
    expect(await daemon.docker('ps', '--format', '{{.Names}} {{.Status}}')).toMatch(/^same Up/);
    expect(await besideLayer('same')).toEqual([]);
    expect(readdirSync(join(stack.runDir, 'wishes'))).toEqual([]);
  });

  it('goes into a new container with the configuration of its source, volumes included, and starts it afresh later', async () => {
    await run('old', [
      '-v',
      'shared:/shared',
      '-v',
      '/anonymous',
      '-e',
      'COLOR=blue',
      '--label',
      'team=a',
      '--memory',
      '64m',
    ]);
    await daemon.docker('exec', 'old', 'sh', '-c', 'echo volume > /anonymous/file');
    const then = await count('old');
    const checkpointId = await checkpoint('old');

    const result = await restore(checkpointId, 'new');

    expect(result).toMatchObject({ how: 'restored', docker: { name: 'new' } });
    await goesOn('new', then);
    await goesOn('old', then);
    expect(await read('new', '/token')).toBe(await read('old', '/token'));
    expect(await read('new', '/anonymous/file')).toBe('volume');
    const format = '{{.Config.Env}} {{.Config.Labels.team}} {{.HostConfig.Memory}} {{.HostConfig.Runtime}}';
    expect(await daemon.docker('inspect', '-f', format, 'new')).toMatch(/COLOR=blue.* a 67108864 kybernate/);
    await daemon.docker('restart', '-t', '0', 'new');
    const token = await read('old', '/token');
    await until('the fresh start', async () => {
      const now = await read('new', '/token').catch(() => '');
      return now !== '' && now !== token;
    });
  });

  it('that fails in the runtime leaves the source as it was', async () => {
    await run('whole');
    const checkpointId = await checkpoint('whole');
    await daemon.docker('exec', 'whole', 'sh', '-c', 'echo later > /root/later');
    await daemon.docker('kill', 'whole');

    await withCriu('exit 1', () =>
      expect(restore(checkpointId)).rejects.toMatchObject({
        type: 'RestoreFailed',
        message: expect.stringContaining('runc restore failed'),
      }),
    );

    await daemon.docker('start', 'whole');
    expect(await read('whole', '/root/later')).toBe('later');
    expect(readdirSync(join(stack.runDir, 'wishes'))).toEqual([]);
  });

  it('that fails, with a cold start as its policy, starts the source afresh with the files that it had', async () => {
    await run('afresh');
    const token = await read('afresh', '/token');
    const checkpointId = await checkpoint('afresh');
    await daemon.docker('exec', 'afresh', 'sh', '-c', 'echo later > /root/later');
    await daemon.docker('kill', 'afresh');

    const result = await withCriu('exit 1', () => restore(checkpointId, true, { onFailure: 'cold-start' }));

    expect(result).toMatchObject({ how: 'cold-started', docker: { name: 'afresh' } });
    expect(result.warnings).toContainEqual(
      expect.stringMatching(/^started afresh, with the files that it had: .*runc restore failed/),
    );
    await until('the fresh start', async () => ![token, ''].includes(await read('afresh', '/token').catch(() => '')));
    expect(await read('afresh', '/root/later')).toBe('later');
    expect(await besideLayer('afresh')).toEqual([]);
  });

  it('that a reboot cuts short leaves the source as it was, and meanwhile nobody starts it, its restart policy neither', async () => {
    await run('cut', ['--restart', 'always']);
    const checkpointId = await checkpoint('cut');
    await daemon.docker('exec', 'cut', 'sh', '-c', 'echo later > /root/later');
    await daemon.docker('kill', 'cut');
    const begun = join(stack.dir, 'begun');
    const handle = await withCriu(`touch ${begun}; exec sleep 1000`, async () => {
      const restoring = await stack.client.restore({
        node: stack.node,
        checkpointId,
        container: { docker: true },
        timeouts: { heartbeatMs: 3000 },
      });
      await until('the restore to have begun', () => existsSync(begun));
      await reboot();
      return restoring;
    });

    expect(await daemon.docker('inspect', '-f', '{{.State.Running}} {{.State.Error}}', 'cut')).toMatch(
      /^false .*neither those of before nor those of the checkpoint/,
    );
    await expect(daemon.docker('start', 'cut')).rejects.toThrow('the node worker ends that restore');
    await stack.startWorkers();
    await expect(handle.result()).rejects.toMatchObject({ message: expect.stringContaining('rebooted') });

    expect(await besideLayer('cut')).toEqual([]);
    await daemon.docker('start', 'cut');
    expect(await read('cut', '/root/later')).toBe('later');
  });

  it('is what the example shows', async () => {
    const script = fileURLToPath(new URL('../../examples/docker/run.sh', import.meta.url));
    const env = { ...stack.variables, ...daemon.env, IMAGE: DOCKER_IMAGES.busybox };

    const result = await runExeca('/bin/sh', [script], { env });

    expect(result.stderr).not.toContain('kybernate:');
    const counts = [...result.stdout.matchAll(/^(?:killed|back|and).* (\d+)$/gm)].map(([, number]) => Number(number));
    expect(counts).toHaveLength(3);
    expect(counts[1]).toBeLessThan((counts[0] ?? 0) + 100);
    expect(counts[2]).toBeLessThan((counts[0] ?? 0) + 100);
  });
});

describe('with a network and a published port', () => {
  it('a container answers again at its port, and a port that is taken is told before', async () => {
    const port = await freePort();
    await daemon.makeNetwork('web', 78);
    const publish = ['--network', 'web', '-p', `127.0.0.1:${port}:80`];
    await run('web', publish, `httpd -p 80 -h /; ${COUNTER}`);
    const answer = async (): Promise<number> => Number(await (await fetch(`http://127.0.0.1:${port}/count`)).text());
    const answers = (): Promise<boolean> => answer().then(Number.isFinite, () => false);
    await until('the first answer', answers);
    const then = await answer();
    const checkpointId = await checkpoint('web');
    await expect(restore(checkpointId, 'web-2')).rejects.toMatchObject({
      message: expect.stringContaining(`port ${port} of 127.0.0.1 is taken`),
    });
    await daemon.docker('kill', 'web');

    await restore(checkpointId);

    await until('an answer of the restored one', answers);
    expect(await answer()).toBeGreaterThanOrEqual(then);
    await goesOn('web', then);
  });
});

it('a checkpoint goes into another Docker daemon, which has the image', async () => {
  const other = await DockerDaemon.start('d2');
  const archive = join(stack.dir, 'image.tar');
  try {
    await run('moves');
    const then = await count('moves');
    const token = await read('moves', '/token');
    const checkpointId = await checkpoint('moves', 'stop');
    await moveTo(other);
    await expect(restore(checkpointId)).rejects.toMatchObject({
      type: 'Incompatible',
      message: expect.stringContaining(`Docker has not the image ${DOCKER_IMAGES.busybox}`),
    });
    await daemon.docker('save', '-o', archive, DOCKER_IMAGES.busybox);
    await other.docker('load', '-i', archive);

    const result = await restore(checkpointId);

    const pid = (await other.api.container('moves'))?.State.Pid ?? 0;
    const inside = (path: string): string => readFileSync(`/proc/${pid}/root${path}`, 'utf8').trim();
    expect(result).toMatchObject({ how: 'restored', docker: { name: 'moves' }, initHostPid: pid });
    expect(inside('/token')).toBe(token);
    const first = Number(inside('/count'));
    expect(first).toBeGreaterThanOrEqual(then);
    await until('it to count on', () => Number(inside('/count')) > first);
  } finally {
    await moveTo(daemon);
    await other.close();
  }
});

/** The node's worker has one Docker daemon. */
async function moveTo(to: DockerDaemon): Promise<void> {
  await stack.stopNodeWorker();
  Object.assign(stack.variables, to.variables);
  await stack.startWorkers();
}

/** What a restore keeps there. */
async function besideLayer(name: string): Promise<readonly string[]> {
  const upperDir = await daemon.docker('inspect', '-f', '{{.GraphDriver.Data.UpperDir}}', name);
  return readdirSync(dirname(upperDir)).filter((entry) => entry.includes('kybernate'));
}

/** For all that has to do with Docker: what ran is gone, and what lay on tmpfs; Docker starts by itself. */
async function reboot(): Promise<void> {
  await stack.kill('sidecar');
  await stack.killNodeWorker();
  await daemon.loseByPowerFailure();
  rmSync(stack.runDir, { recursive: true, force: true });
  mkdirSync(stack.runDir, { mode: 0o700 });
  await daemon.restart();
}

/** The runtime finds this script for CRIU. */
async function withCriu<Result>(script: string, act: () => Promise<Result>): Promise<Result> {
  const conf = join(shimDirOf(fromLane('containerd').dir), 'kybernate-runtime/kybernate-shim.conf');
  const before = readFileSync(conf, 'utf8');
  const criu = join(stack.dir, 'criu');
  writeFileSync(criu, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  writeFileSync(conf, before.replace(/^criu=.*$/m, `criu=${criu}`));
  try {
    return await act();
  } finally {
    writeFileSync(conf, before);
  }
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}

describe('Docker says no before anything is touched', () => {
  it('to a stop of a container that it would start again, or remove', async () => {
    await run('always', ['--restart', 'always']);
    await run('passing', ['--rm']);

    await expect(checkpoint('always', 'stop')).rejects.toMatchObject({
      type: 'Incompatible',
      message: expect.stringContaining('docker update --restart=no always'),
    });
    await expect(checkpoint('passing', 'stop')).rejects.toMatchObject({ message: expect.stringContaining('--rm') });

    await goesOn('always', 1);
    await goesOn('passing', 1);
  });

  it('to a checkpoint of what it does not have, or does not run', async () => {
    await run('ended');
    await daemon.docker('kill', 'ended');

    await expect(checkpoint('nobody')).rejects.toMatchObject({ type: 'ContainerNotFound' });
    await expect(checkpoint('ended')).rejects.toMatchObject({ type: 'ContainerNotRunning' });
  });

  it('to a restore into a name, a runtime, a volume, a path or a network that does not fit, each with its reason', async () => {
    const bound = join(stack.dir, 'bound');
    mkdirSync(bound);
    await daemon.makeNetwork('inner', 77);
    await run('fits', ['--network', 'inner', '-v', 'gone:/gone', '-v', `${bound}:/bound`]);
    const checkpointId = await checkpoint('fits');
    await expect(restore(checkpointId)).rejects.toMatchObject({
      message: expect.stringContaining('the source, is running'),
    });
    await daemon.docker('rm', '-f', 'fits');
    await daemon.docker('volume', 'rm', 'gone');
    await daemon.docker('network', 'rm', 'inner');
    await daemon.docker('create', '--name', 'fits', DOCKER_IMAGES.busybox, 'true');

    const handle = await stack.client.preflight({ node: stack.node, checkpointId, as: { docker: true } });
    const { findings } = await handle.result();

    expect(findings.filter(({ severity }) => severity === 'error').map(({ message }) => message)).toEqual([
      expect.stringMatching(/^Docker has another container fits/),
      'mount /gone: Docker has no volume gone',
      'Docker has no network inner',
    ]);
    await expect(restore(checkpointId, 'other')).rejects.toMatchObject({ type: 'Incompatible' });
    expect(existsSync(join(stack.runDir, 'wishes')) ? readdirSync(join(stack.runDir, 'wishes')) : []).toEqual([]);
  });

  it('to a restore of its container without Docker', async () => {
    await run('docks');
    const checkpointId = await checkpoint('docks');

    const handle = await stack.client.restore({ node: stack.node, checkpointId });

    await expect(handle.result()).rejects.toMatchObject({ message: expect.stringContaining('--docker') });
  });
});

it('`docker checkpoint` and `docker start --checkpoint` keep working with our runtime', async () => {
  await run('own');
  const then = await count('own');
  const token = await read('own', '/token');

  await daemon.docker('checkpoint', 'create', 'own', 'c1');
  await until('the end of the source', async () => (await daemon.api.container('own'))?.State.Running === false);
  // Docker's own race, with any runtime: its containerd has not yet collected the images of the create (moby 20.10).
  await until('Docker to take its images again', () =>
    daemon.docker('start', '--checkpoint', 'c1', 'own').then(
      () => true,
      (error: unknown) => {
        expect(String(error)).toContain('already exists');
        return false;
      },
    ),
  );

  await goesOn('own', then);
  expect(await read('own', '/token')).toBe(token);
});
