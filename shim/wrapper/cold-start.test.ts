/* Bundles that ask for GPUs, on nodes made of files in a temporary directory: driver, devices, CDI. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { OciSpec } from '../../core/oci/spec.ts';
import { runSpawn } from '../../native/run/run-spawn.ts';
import { giveGpus } from './cold-start.ts';
import { findDriver } from './driver-files.ts';

const VERSION = '580.159.04';
const LIBRARIES = '/usr/lib/x86_64-linux-gnu';
const UUID = 'GPU-00000000-0000-0000-0000-000000000001';
/** /dev/null stands for every device of the driver: making nodes needs privileges that a unit test does not have. */
const NULL = { major: 1, minor: 3 };

let dir: string;
let root: string;
let logged: string[];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'cold-start-'));
  root = join(dir, 'root');
  logged = [];
  put('bundle/rootfs/keep', '');
});

afterEach(() => rmSync(dir, { recursive: true, force: true }));

function put(path: string, text: string): void {
  mkdirSync(dirname(join(dir, path)), { recursive: true });
  writeFileSync(join(dir, path), text);
}

function device(name: string): void {
  mkdirSync(join(root, 'dev'), { recursive: true });
  symlinkSync('/dev/null', join(root, 'dev', name));
}

/** Two GPUs; the second one comes first on the bus. */
function driver(): void {
  put(
    'root/proc/driver/nvidia/version',
    `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  ${VERSION}  Release\n`,
  );
  for (const [bus, minor] of [
    ['0000:81:00.0', 0],
    ['0000:41:00.0', 1],
  ] as const) {
    const uuid = UUID.replace(/1$/, String(minor));
    put(
      `root/proc/driver/nvidia/gpus/${bus}/information`,
      `Model: \t\t NVIDIA H100\nIRQ:   \t\t 42\nGPU UUID: \t ${uuid}\nDevice Minor: \t ${minor}\n`,
    );
    device(`nvidia${minor}`);
  }
  device('nvidiactl');
  device('nvidia-uvm');
  for (const name of ['libcuda', 'libnvidia-ml', 'libnvidia-ptxjitcompiler']) {
    put(`root${LIBRARIES}/${name}.so.${VERSION}`, name);
    symlinkSync(`${name}.so.${VERSION}`, join(root, LIBRARIES, `${name}.so.1`));
  }
  symlinkSync('libcuda.so.1', join(root, LIBRARIES, 'libcuda.so'));
  put(`root${LIBRARIES}/libcuda.so.470.1`, 'of another driver');
  put('root/usr/bin/nvidia-smi', '');
}

async function give(spec: object): Promise<OciSpec> {
  put('bundle/config.json', JSON.stringify(spec));
  const deps = {
    run: runSpawn,
    log: (_command: unknown, level: string, message: string) => logged.push(`${level} ${message}`),
  };
  await giveGpus(deps, ['create', '--bundle', join(dir, 'bundle'), 'id'], root);
  return JSON.parse(readFileSync(join(dir, 'bundle/config.json'), 'utf8')) as OciSpec;
}

const asking = (gpus: string): object => ({ process: { env: [`NVIDIA_VISIBLE_DEVICES=${gpus}`] } });

describe('a cold start on a node with a driver and no CDI', () => {
  beforeEach(driver);

  it('gives all GPUs, the nodes of the driver, its libraries by all their names, and nvidia-smi', async () => {
    put(`bundle/rootfs${LIBRARIES}/libc.so.6`, '');

    const spec = await give(asking('all'));

    expect(spec.linux?.devices).toEqual(
      ['nvidia1', 'nvidia0', 'nvidiactl', 'nvidia-uvm'].map((name) => ({ path: `/dev/${name}`, type: 'c', ...NULL })),
    );
    expect(spec.linux?.resources?.devices).toContainEqual({ allow: true, type: 'c', access: 'rwm', ...NULL });
    expect(spec.mounts?.map((mount) => mount.destination).sort()).toEqual([
      '/usr/bin/nvidia-smi',
      `${LIBRARIES}/libcuda.so`,
      `${LIBRARIES}/libcuda.so.1`,
      `${LIBRARIES}/libcuda.so.${VERSION}`,
      `${LIBRARIES}/libnvidia-ml.so.1`,
      `${LIBRARIES}/libnvidia-ml.so.${VERSION}`,
      `${LIBRARIES}/libnvidia-ptxjitcompiler.so.1`,
      `${LIBRARIES}/libnvidia-ptxjitcompiler.so.${VERSION}`,
    ]);
    expect(spec.mounts?.every((mount) => mount.source?.startsWith(root))).toBe(true);
    expect(spec.process?.env).toEqual(['NVIDIA_VISIBLE_DEVICES=void']);
    expect(logged).toEqual([]);
  });

  it('puts the libraries apart for a container that has no such directory', async () => {
    const spec = await give(asking('all'));

    expect(spec.mounts?.some((mount) => mount.destination === '/usr/local/nvidia/lib64/libcuda.so.1')).toBe(true);
    expect(spec.process?.env).toContain('LD_LIBRARY_PATH=/usr/local/nvidia/lib64');
  });

  it.each([
    ['0', 'an index counts along the bus'],
    [UUID, 'a UUID'],
  ])('gives one GPU by %s: %s', async (name) => {
    const spec = await give(asking(name));

    expect(spec.linux?.devices?.map((node) => node.path)).toEqual([
      '/dev/nvidia1',
      '/dev/nvidiactl',
      '/dev/nvidia-uvm',
    ]);
  });

  it('refuses a GPU that is not there and leaves the bundle as it was', async () => {
    await expect(give(asking('GPU-x'))).rejects.toThrow(/GPU-x.*it has 0 GPU-\S*1 \(NVIDIA H100\), 1 GPU-\S*0/);

    expect(readFileSync(join(dir, 'bundle/config.json'), 'utf8')).toBe(JSON.stringify(asking('GPU-x')));
  });

  it('changes nothing and says so when the libraries of the loaded version are missing', async () => {
    rmSync(join(root, LIBRARIES, `libcuda.so.${VERSION}`));

    expect(await give(asking('all'))).toEqual(asking('all'));

    expect(logged).toEqual([expect.stringMatching(/^warning .*libcuda of that version is not installed.*without$/)]);
  });
});

describe('a cold start on a node with CDI specifications', () => {
  const NODE = { path: '/dev/nvidia0', major: 195, minor: 0 };

  it('follows one in YAML rather than what it would find by itself', async () => {
    driver();
    put(
      'root/etc/cdi/nvidia.yaml',
      [
        'cdiVersion: 0.5.0',
        'kind: nvidia.com/gpu',
        'devices:',
        '- name: "0"',
        '  containerEdits:',
        '    deviceNodes:',
        '    - path: /dev/nvidia0',
        '      major: 195',
        '      minor: 0',
        'containerEdits:',
        '  mounts:',
        '  - hostPath: /lib/libcuda.so.1',
        '    containerPath: /lib/libcuda.so.1',
        '    options: [ro]',
      ].join('\n'),
    );

    const spec = await give({ annotations: { 'kybernate.io/gpus': 'all' } });

    expect(spec.linux?.devices).toEqual([{ ...NODE, type: 'c' }]);
    expect(spec.mounts).toEqual([
      {
        destination: '/lib/libcuda.so.1',
        type: 'bind',
        source: '/lib/libcuda.so.1',
        options: ['ro', 'bind', 'rprivate'],
      },
    ]);
  });

  it('takes the later directory and passes over what is broken or of another vendor', async () => {
    const file = (path: string): object => ({
      kind: 'nvidia.com/gpu',
      devices: [{ name: 'all', containerEdits: { deviceNodes: [{ ...NODE, path }] } }],
    });
    put('root/etc/cdi/a.json', JSON.stringify(file('/dev/nvidia5')));
    put('root/etc/cdi/b.json', '{');
    put('root/etc/cdi/c.json', JSON.stringify({ kind: 'vendor.com/nic', devices: [] }));
    put('root/var/run/cdi/a.json', JSON.stringify(file('/dev/nvidia0')));

    const spec = await give(asking('all'));

    expect(spec.linux?.devices?.map((node) => node.path)).toEqual(['/dev/nvidia0']);
    expect(logged).toEqual([expect.stringMatching(/^warning kybernate: .*\/b\.json: /)]);
  });
});

describe('a cold start on a node without a GPU', () => {
  it('changes nothing and says so', async () => {
    const before = asking('all');

    expect(await give(before)).toEqual(before);

    expect(logged).toEqual([
      'warning kybernate: variable NVIDIA_VISIBLE_DEVICES asks for GPUs: this node has none; the container starts without',
    ]);
  });

  it('says nothing to a container that asks for none', async () => {
    await give({ process: { env: ['NVIDIA_VISIBLE_DEVICES=void'] } });

    expect(logged).toEqual([]);
  });
});

describe('findDriver', () => {
  it("agrees with this node's own kernel about whether a driver is loaded", async () => {
    const loaded = spawnSync('test', ['-e', '/proc/driver/nvidia/version']).status === 0;

    expect((await findDriver('', runSpawn)) !== undefined).toBe(loaded);
  });
});
