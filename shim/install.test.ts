/* The installed scripts with a false runc, a false Node and a false stock shim, each of which says how it was called. */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { spawn, spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { SHIM_NAME, type ShimInstallation, installShim } from './install.ts';

let dir: string;
let installation: ShimInstallation;

function program(name: string, text: string): string {
  const path = join(dir, 'programs', name);
  writeFileSync(path, `#!/bin/sh\n${text}\n`);
  chmodSync(path, 0o755);
  return path;
}

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'shim-install-'));
  mkdirSync(join(dir, 'programs'));
  mkdirSync(join(dir, 'bundle'));
  program('kybernate-yaml.mjs', '');
  installation = {
    targetDir: join(dir, 'bin with blank'),
    nodePath: program('node', 'echo "node $KYBERNATE_RUNC $KYBERNATE_AGENT_SOCKET ${NODE_OPTIONS-unset} $*"'),
    wrapperPath: program('wrapper.mjs', ''),
    runcPath: program('runc', 'echo "runc $*"'),
    criuPath: program('criu', ''),
    agentSocket: '/run/kybernate/agent.sock',
  };
});

afterEach(() => rmSync(dir, { recursive: true, force: true }));

function runc(args: readonly string[], env: Record<string, string> = {}): { stdout: string; status: number | null } {
  const path = join(installation.targetDir, 'kybernate-runtime/runc');
  const result = spawnSync(path, args, { encoding: 'utf8', env: { PATH: process.env['PATH'] ?? '', ...env } });
  return { stdout: result.stdout.trim(), status: result.status };
}

function bundle(spec: object): string[] {
  writeFileSync(join(dir, 'bundle/config.json'), JSON.stringify(spec));
  return [
    '--root',
    join(dir, 'root'),
    '--log',
    '/l',
    'create',
    '--bundle',
    join(dir, 'bundle'),
    '--pid-file',
    '/p',
    'id',
  ];
}

describe('installShim', () => {
  it('leaves the same five files when it is repeated, and no temporary ones', () => {
    const launcher = installShim(installation);

    expect(installShim(installation)).toBe(launcher);

    expect(launcher).toBe(join(installation.targetDir, SHIM_NAME));
    expect(readdirSync(installation.targetDir).sort()).toEqual([SHIM_NAME, 'kybernate-runtime']);
    expect(readdirSync(join(installation.targetDir, 'kybernate-runtime')).sort()).toEqual([
      'kybernate-shim.conf',
      'kybernate-wrapper.mjs',
      'kybernate-yaml.mjs',
      'runc',
    ]);
  });

  it('refuses a relative path, a missing program and a line break', () => {
    expect(() => installShim({ ...installation, runcPath: 'runc' })).toThrow(/runcPath.*absolute/);
    expect(() => installShim({ ...installation, criuPath: '/nowhere/criu' })).toThrow(/does not exist/);
    expect(() => installShim({ ...installation, agentSocket: '/a\nrunc=/evil' })).toThrow(/agentSocket/);
  });
});

describe('the launcher', () => {
  it('becomes the stock shim with our runc and CRIU first in PATH and no options of Node', () => {
    program('containerd-shim-runc-v2', 'echo "$PATH|${NODE_OPTIONS-unset}|${NODE_EXTRA_CA_CERTS-unset}|$*"');
    const launcher = installShim(installation);
    const path = `${installation.targetDir}:${join(dir, 'programs')}:/usr/bin:/bin`;

    const result = spawnSync(launcher, ['-namespace', 'a b', 'start'], {
      encoding: 'utf8',
      env: { PATH: path, NODE_OPTIONS: '--inspect', NODE_EXTRA_CA_CERTS: '/x' },
    });

    expect(result.stdout.trim()).toBe(
      `${join(installation.targetDir, 'kybernate-runtime')}:${join(dir, 'programs')}:${path}|unset|unset|-namespace a b start`,
    );
  });
});

const rule = (type: number, major: number, permissions: string, allow: boolean): object => ({
  type,
  major,
  minor: -1,
  permissions,
  allow,
});
/** As runc writes them for every container: nothing but making nodes, and the harmless devices. */
const USUAL = [
  rule(97, -1, 'rwm', false),
  rule(99, -1, 'm', true),
  rule(98, -1, 'm', true),
  rule(99, 136, 'rwm', true),
];
const state = (devices: readonly object[], more: object = {}): object => ({
  config: { rootfs: '/r', cgroups: { devices }, ...more },
});
const STATES: Record<string, [object | undefined, 'node' | 'runc']> = {
  'a container without a device of the driver is left to runc': [state(USUAL), 'runc'],
  'a path of the driver goes to Node': [state(USUAL, { mounts: [{ destination: '/dev/nvidia0' }] }), 'node'],
  'a mounted libcuda goes to Node': [state(USUAL, { mounts: [{ destination: '/l/libcuda.so.1' }] }), 'node'],
  'a hook of the driver goes to Node': [state(USUAL, { Hooks: { prestart: [{ path: '/x/nvidia-hook' }] } }), 'node'],
  "a rule for the driver's number goes to Node": [state([...USUAL, rule(99, 195, 'rwm', true)]), 'node'],
  'a rule that allows every device goes to Node': [state([...USUAL, rule(97, -1, 'rwm', true)]), 'node'],
  'a rule that allows every character device goes to Node': [state([...USUAL, rule(99, -1, 'rw', true)]), 'node'],
  'rules that deny nothing go to Node': [state([rule(99, -1, 'm', true)]), 'node'],
  'no rules at all go to Node': [state([]), 'node'],
  'a state that cannot be read goes to Node': [undefined, 'node'],
};

describe('the fast path', () => {
  it('passes a create that asks for nothing on to runc, arguments untouched', () => {
    installShim(installation);
    const args = bundle({ process: { args: ['x  y', '*'], env: ['MY_RESTORE_FROM=1'] } });

    expect(runc(args).stdout).toBe(`runc ${args.join(' ')}`);
  });

  it.each([
    ['an annotation', { annotations: { 'kybernate.io/restore-from': 'ck-1' } }],
    ['an annotation for one container', { annotations: { 'kybernate.io/restore-from.app': 'ck-1' } }],
    ['the variable', { process: { env: ['RESTORE_FROM=ck-1'] } }],
    ['an annotation for GPUs', { annotations: { 'kybernate.io/gpus': 'all' } }],
    ['the variable for GPUs', { process: { env: ['NVIDIA_VISIBLE_DEVICES=0'] } }],
  ])('hands a create that asks by %s to Node', (_title, spec) => {
    installShim(installation);
    const args = bundle(spec);

    const { stdout } = runc(args, { NODE_OPTIONS: '--inspect' });

    const wrapper = join(installation.targetDir, 'kybernate-runtime/kybernate-wrapper.mjs');
    expect(stdout).toBe(
      `node ${installation.runcPath} /run/kybernate/agent.sock unset --no-warnings ${wrapper} ${args.join(' ')}`,
    );
  });

  it('hands a create to Node while a restore into the layer that Docker mounts is not over', () => {
    installShim(installation);
    const layer = join(dir, 'layer');
    mkdirSync(layer);
    const args = bundle({ root: { path: join(layer, 'merged') } });
    expect(runc(args).stdout).toBe(`runc ${args.join(' ')}`);

    writeFileSync(join(layer, 'kybernate-restoring'), 'operation');

    expect(runc(args).stdout).toMatch(/^node .* create /);
  });

  it('hands a restore that somebody else asks for to Node', () => {
    installShim(installation);

    expect(runc(['--root', '/r', 'restore', '--image-path', '/i', 'id']).stdout).toMatch(/^node .* restore .* id$/);
  });

  it('leaves a container that CDI has given its GPUs to runc', () => {
    installShim(installation);
    const args = bundle({ process: { env: ['NVIDIA_VISIBLE_DEVICES=void'] } });

    expect(runc(args).stdout).toBe(`runc ${args.join(' ')}`);
  });

  it.each(Object.entries(STATES))('of a checkpoint: %s', (_title, [state, by]) => {
    installShim(installation);
    mkdirSync(join(dir, 'root/id'), { recursive: true });
    if (state !== undefined) {
      writeFileSync(join(dir, 'root/id/state.json'), JSON.stringify(state));
    }

    const { stdout } = runc(['--root', join(dir, 'root'), 'checkpoint', '--image-path', '/i', '--leave-running', 'id']);

    expect(stdout.split(' ')[0]).toBe(by);
  });

  it.each([
    ['ends the container', [], ' --link-remap'],
    ['leaves it running', ['--leave-running'], ''],
    ['is a first one of several', ['--pre-dump'], ''],
    ['asks for it already', ['--link-remap'], ''],
  ])('gives files without a name one for the dump when a checkpoint %s: %j', (_title, flags, added) => {
    writeFileSync(
      installation.runcPath,
      '#!/bin/sh\ncase "$*" in *--help) echo "   --link-remap  allow" ;; *) echo "runc $*" ;; esac\n',
    );
    installShim(installation);
    const root = join(dir, 'root');
    mkdirSync(join(root, 'id'), { recursive: true });
    writeFileSync(join(root, 'id/state.json'), JSON.stringify(state(USUAL)));
    const before = ['--root', root, 'checkpoint', '--image-path', '/i', ...flags];

    expect(runc([...before, 'id']).stdout).toBe(`runc ${before.join(' ')}${added} id`);
  });

  it('waits with a resume until the agent has paused the container again', async () => {
    installShim(installation);
    const mark = join(dir, 'root/id/kybernate-checkpoint');
    mkdirSync(join(dir, 'root/id'), { recursive: true });
    writeFileSync(mark, `${process.pid}\n`);
    const resume = spawn(join(installation.targetDir, 'kybernate-runtime/runc'), [
      `--root=${join(dir, 'root')}`,
      'resume',
      'id',
    ]);
    let output = '';
    resume.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));

    await new Promise((resolve) => setTimeout(resolve, 300));
    const before = output;
    rmSync(mark);
    const status = await new Promise((resolve) => resume.once('close', resolve));

    expect({ before, output: output.trim(), status }).toEqual({
      before: '',
      output: `runc --root=${join(dir, 'root')} resume id`,
      status: 0,
    });
  });

  it.each([
    ['running', 0],
    ['paused', 1],
  ])(
    'does not wait for a dead agent: a resume that runc refuses of a %s container ends with %i',
    (status, exitCode) => {
      writeFileSync(
        installation.runcPath,
        `#!/bin/sh\ncase "$*" in *state*) echo '  "status": "${status}",' ;; *) exit 1 ;; esac\n`,
      );
      installShim(installation);
      mkdirSync(join(dir, 'root/id'), { recursive: true });
      writeFileSync(join(dir, 'root/id/kybernate-checkpoint'), '4194999\n');

      expect(runc(['--root', join(dir, 'root'), 'resume', 'id']).status).toBe(exitCode);
    },
  );

  it('does nothing for the start of a restored container, whatever its id looks like', () => {
    installShim(installation);
    mkdirSync(join(dir, 'root/create'), { recursive: true });
    writeFileSync(join(dir, 'root/create/kybernate-restored'), '');

    expect(runc([`--root=${join(dir, 'root')}`, 'start', 'create'])).toEqual({ stdout: '', status: 0 });
    expect(runc(['--root', join(dir, 'root'), 'start', 'other']).stdout).toMatch(/^runc .* start other$/);
  });

  it('refuses to delete below a mount that a dead restore left', () => {
    installShim(installation);
    const left = join(dir, 'root/id/criu-root');
    mkdirSync(left, { recursive: true });
    const args = ['--root', join(dir, 'root'), 'delete', '--force', 'id'];

    writeFileSync(join(left, 'file-of-the-user'), '');
    expect(runc(args)).toEqual({ stdout: '', status: 1 });
    rmSync(join(left, 'file-of-the-user'));

    expect(runc(args).stdout).toBe(`runc ${args.join(' ')}`);
    expect(existsSync(left)).toBe(false);
  });

  it('finds runc by KYBERNATE_RUNC, by its configuration, else the next one in PATH that is not itself', () => {
    installShim(installation);
    const ours = join(installation.targetDir, 'kybernate-runtime');
    const other = program('other-runc', 'echo "other $*"');
    const path = { PATH: `${ours}:${join(dir, 'programs')}:/usr/bin:/bin` };

    expect(runc(['list'], { ...path, KYBERNATE_RUNC: other }).stdout).toBe('other list');
    expect(runc(['list'], { ...path, KYBERNATE_RUNC: 'other-runc' }).stdout).toBe('other list');
    expect(runc(['list'], { ...path, KYBERNATE_RUNC: join(ours, 'runc') }).stdout).toBe('runc list');
    const conf = join(ours, 'kybernate-shim.conf');
    writeFileSync(conf, readFileSync(conf, 'utf8').replace(/^runc=.*\n/, ''));
    expect(runc(['list'], path).stdout).toBe('runc list');
    expect(runc(['list'], { PATH: ours }).status).toBe(127);
  });

  it('evaluates nothing of its configuration', () => {
    installShim(installation);
    const conf = join(installation.targetDir, 'kybernate-runtime/kybernate-shim.conf');
    writeFileSync(conf, `runc=${installation.runcPath}\nevil=$(touch ${dir}/evil)\nnode=\`touch ${dir}/evil\`\n`);

    runc(bundle({}));

    expect(existsSync(join(dir, 'evil'))).toBe(false);
  });
});
