import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { openContainerd } from '../../cli/dev/containerd-client.ts';
import type { Op } from '../../core/op.ts';
import { inspectContainer } from '../../engine/inspect.ts';
import type { ContainerFacts } from '../../engine/container-facts.ts';
import { applyRootfs } from '../../engine/rootfs-apply.ts';
import { captureRootfs } from '../../engine/rootfs.ts';
import { connectContainerd } from '../../native/containerd/client.ts';
import type { Containerd, Mount } from '../../native/containerd/containerd.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { testDeps, testOp } from '../harness/node-deps.ts';
import { fileTree } from '../harness/file-tree.ts';
import { PYTHON, until } from '../harness/stack.ts';

/** Every kind of change that an overlay can hold. */
const CHANGES = `
import os, shutil, socket, stat, time
os.remove("/etc/passwd") if os.path.exists("/etc/passwd") else None
library = [d for d in os.listdir("/usr/lib") if d.startswith("python3")][0]
base = "/usr/lib/" + library
shutil.rmtree(base + "/email"); os.mkdir(base + "/email"); open(base + "/email/only.py", "w").write("new")
shutil.rmtree(base + "/json"); open(base + "/json", "w").write("a file now")
shutil.rmtree(base + "/html"); os.symlink("json", base + "/html")
os.remove(base + "/this.py"); os.mkdir(base + "/this.py"); open(base + "/this.py/inside", "w").write("x")
os.chmod(base + "/ast.py", 0o600)
shutil.move(base + "/wsgiref", base + "/moved")
os.makedirs("/data/deep/er")
open("/data/plain", "w").write("plain"); os.link("/data/plain", "/data/deep/twin"); os.chown("/data/plain", 1000, 1001)
with open("/data/sparse", "wb") as f:
    f.seek(40_000_000); f.write(b"end")
os.mkfifo("/data/fifo"); os.symlink("/nowhere/at/all", "/data/dangling")
os.mknod("/data/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
os.setxattr("/data/deep", "user.colour", b"blue"); os.setxattr("/data/plain", "user.taste", b"sweet")
open(b"/data/latin-\\xe9", "w").write("latin"); open("/data/new\\nline", "w").write("line"); open("/data/-rf", "w").write("dash")
open("/data/setuid", "w").write("s"); os.chmod("/data/setuid", 0o4755)
os.chmod("/data/deep", 0o1777); os.utime("/data/plain", (1, 1_000_000_000))
s = socket.socket(socket.AF_UNIX); s.bind("/data/sock")
open("/run/ready", "w")
while True: time.sleep(60)
`;
import { fromLane } from '../harness/provided.ts';

let containerd: Containerd;
let namespace: string;
let dir: string;
let snapshots = 0;
const mounted: string[] = [];

beforeAll(async () => {
  const provided = fromLane('containerd');
  namespace = provided.namespace;
  containerd = connectContainerd(provided.address);
  dir = mkdtempSync(join(provided.dir, 'rootfs-'));
  const flags = ['--null-io', '--cap-add', 'CAP_MKNOD'];
  await ctr('run', '-d', ...flags, PYTHON, 'layer', '/usr/bin/python3', '-c', CHANGES);
  const pid = (await containerd.getTask(namespace, 'layer'))?.pid ?? 0;
  await until('the changes', () => statSync(`/proc/${pid}/root/run/ready`, { throwIfNoEntry: false }) !== undefined);
});
afterEach(async () => {
  for (const path of mounted.splice(0)) {
    await runExeca('umount', [path]);
    await containerd.removeSnapshot(namespace, 'overlayfs', `applied-${snapshots}`);
  }
});
afterAll(async () => {
  await ctr('tasks', 'kill', '-s', '9', '-a', 'layer');
  await until('the end', async () => (await containerd.getTask(namespace, 'layer'))?.status === 'stopped');
  await ctr('tasks', 'rm', 'layer');
  await ctr('containers', 'rm', 'layer');
  containerd.close();
  rmSync(dir, { recursive: true });
});

function ctr(...args: string[]): Promise<string> {
  return openContainerd(fromLane('containerd').dir, process.env).ctrOk(['-n', namespace, ...args]);
}

function facts(): Promise<ContainerFacts> {
  return inspectContainer(testDeps(containerd), { namespace, id: 'layer' });
}

/** A fresh layer over the same image, mounted. */
async function freshRootfs(parent: string): Promise<string> {
  snapshots += 1;
  const [mount] = await containerd.prepareSnapshot(namespace, 'overlayfs', `applied-${snapshots}`, parent, {
    // nothing else refers to it: containerd would collect it in the middle of the test
    'containerd.io/gc.root': '2026-01-01T00:00:00Z',
  });
  const { type, source, options } = mount as Mount;
  const path = join(dir, `mnt-${snapshots}`);
  mkdirSync(path);
  const result = await runExeca('mount', ['-t', type, '-o', options.join(','), source, path]);
  expect(result.stderr).toBe('');
  mounted.push(path);
  return path;
}

test.each<[string, (found: ContainerFacts) => ContainerFacts]>([
  ['overlay', (found) => found],
  [
    'diff-service',
    (found) => {
      const { upperDir: _none, ...rest } = found;
      return rest;
    },
  ],
])('every change of the layer comes back in a fresh one (%s)', async (method, adapt) => {
  const found = await facts();
  const destination = join(dir, method);
  mkdirSync(join(destination, 'fs'), { recursive: true });
  const op: Op = testOp();

  const capture = await captureRootfs({ run: runExeca, containerd: () => containerd }, adapt(found), destination, op);
  const rootfs = await freshRootfs(found.snapshotParent ?? '');
  await applyRootfs(rootfs, destination, runExeca);

  expect(capture).toMatchObject({ method, bytes: statSync(join(destination, 'fs/rootfs-diff.tar')).size });
  expect(capture.deletedFiles).toBe(
    (JSON.parse(readFileSync(join(destination, 'fs/deleted.files'), 'utf8')) as unknown[]).length,
  );
  // containerd cuts times to seconds, and does not pass extended attributes on
  const timeUnitMs = method === 'overlay' ? 1 : 1000;
  const skip = ['data/sock', 'proc', 'dev', 'sys', 'run', ...(method === 'overlay' ? [] : ['data/deep', 'data/plain'])];
  const [is, was] = [rootfs, `/proc/${found.initHostPid}/root`].map(
    (root) => new Set(fileTree(root, skip, timeUnitMs)),
  );
  expect({ lost: [...(was ?? [])].filter((line) => is?.has(line) === false) }).toEqual({ lost: [] });
  expect({ added: [...(is ?? [])].filter((line) => was?.has(line) === false) }).toEqual({ added: [] });
  expect(await containerd.statSnapshot(namespace, 'overlayfs', 'kybernate-diff-layer')).toBeUndefined();
});

test('holes take no room in the archive, and the socket is named in a warning', async () => {
  const destination = join(dir, 'sparse');
  mkdirSync(join(destination, 'fs'), { recursive: true });

  const capture = await captureRootfs(
    { run: runExeca, containerd: () => containerd },
    await facts(),
    destination,
    testOp(),
  );

  expect(capture.bytes).toBeLessThan(10_000_000);
  expect(capture.warnings).toEqual([expect.stringMatching(/1 socket files.*data\/sock/)]);
});

test('a full disk is DiskFull', async () => {
  const small = join(dir, 'small');
  mkdirSync(small);
  await runExeca('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', small]);
  mkdirSync(join(small, 'fs'));

  const attempt = captureRootfs({ run: runExeca, containerd: () => containerd }, await facts(), small, testOp());

  const error: unknown = await attempt.catch((thrown: unknown) => thrown);
  await runExeca('umount', [small]);
  expect(error).toMatchObject({ type: 'DiskFull' });
});

test('an aborted capture ends with the reason of the abort', async () => {
  const destination = join(dir, 'aborted');
  mkdirSync(join(destination, 'fs'), { recursive: true });
  const reason = new Error('enough');

  const attempt = captureRootfs(
    { run: runExeca, containerd: () => containerd },
    await facts(),
    destination,
    testOp(AbortSignal.abort(reason)),
  );

  await expect(attempt).rejects.toBe(reason);
});
