/* The wrapper as it is installed: the bundles, started by Node, with a false runc. */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { YAML_BUNDLE } from '../shim/install.ts';
import { buildWrapper } from './wrapper-bundle.ts';

/** A restore waits for the start of Node with this file. */
const BUDGET_BYTES = 150_000;

let dir: string;
let wrapper: string;

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'wrapper-bundle-'));
  wrapper = join(dir, 'wrapper.mjs');
  await buildWrapper(wrapper);
  writeFileSync(join(dir, 'runc'), '#!/bin/sh\necho "runc $*"\n');
  chmodSync(join(dir, 'runc'), 0o755);
});

afterAll(() => rmSync(dir, { recursive: true, force: true }));

function run(...args: string[]): { stdout: string; stderr: string; status: number | null } {
  return spawnSync(process.execPath, ['--no-warnings', wrapper, ...args], {
    encoding: 'utf8',
    env: {
      KYBERNATE_RUNC: join(dir, 'runc'),
      KYBERNATE_AGENT_SOCKET: join(dir, 'no-agent.sock'),
      KYBERNATE_DRIVER_ROOT: join(dir, 'root'),
    },
  });
}

describe('the bundle', () => {
  it('keeps to its budget, the reader of YAML aside', () => {
    expect(statSync(wrapper).size).toBeLessThan(BUDGET_BYTES);
    expect(statSync(join(dir, YAML_BUNDLE)).size).toBeLessThan(BUDGET_BYTES);
  });

  it('reads a CDI specification in YAML and becomes runc', () => {
    mkdirSync(join(dir, 'root/etc/cdi'), { recursive: true });
    mkdirSync(join(dir, 'bundle'));
    const cdi = ['kind: nvidia.com/gpu', 'devices:', '- name: 0', '  containerEdits:', '    deviceNodes:'];
    const node = '    - { path: /dev/nvidia0, major: 195, minor: 0 }';
    writeFileSync(join(dir, 'root/etc/cdi/nvidia.yaml'), [...cdi, node].join('\n'));
    const config = join(dir, 'bundle/config.json');
    writeFileSync(config, JSON.stringify({ annotations: { 'kybernate.io/gpus': '0' } }));

    const { stdout, stderr, status } = run('create', '--bundle', join(dir, 'bundle'), 'id');

    expect({ stdout, stderr, status }).toEqual({
      stdout: `runc create --bundle ${join(dir, 'bundle')} id\n`,
      stderr: '',
      status: 0,
    });
    expect(JSON.parse(readFileSync(config, 'utf8'))).toMatchObject({
      linux: { devices: [{ path: '/dev/nvidia0', type: 'c', major: 195, minor: 0 }] },
    });
  });

  it('leaves the checkpoint of a container that nobody knows to runc, when the agent is away', () => {
    const args = ['--root', join(dir, 'runc-root'), 'checkpoint', '--leave-running', 'id'];

    expect(run(...args)).toMatchObject({ stdout: `runc ${args.join(' ')}\n`, status: 0 });
  });
});
