import { chownSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { containerdConfig } from './containerd.ts';
import { removeDevDefaults, devDefaults, writeDevDefaults } from './defaults.ts';
import { devPaths, shellQuote, sidecarAccount, withoutSettings } from './environment.ts';
import { withDevLock } from './lock.ts';
import { imagePath } from './rootfs.ts';
import { serverArgs } from './temporal.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-dev-'));
});
afterEach(() => {
  rmSync(dir, { recursive: true });
});

describe('the settings of the dev environment', () => {
  const variables = { TEMPORAL_ADDRESS: '127.0.0.1:7233', KYBERNATE_STORE: 'file:///s' };

  it('serve an environment that has none of them', () => {
    writeDevDefaults(dir, variables);

    expect(devDefaults({ KYBERNATE_DEV_DIR: dir, HOME: '/h' })).toEqual(variables);
  });

  it('are not mixed with a setting of the user', () => {
    writeDevDefaults(dir, variables);

    expect(devDefaults({ KYBERNATE_DEV_DIR: dir, TEMPORAL_ADDRESS: 'prod:7233' })).toEqual({});
  });

  it('are gone when it is down', () => {
    writeDevDefaults(dir, variables);
    removeDevDefaults(dir);

    expect(devDefaults({ KYBERNATE_DEV_DIR: dir })).toEqual({});
  });
});

describe('the account of the sidecar', () => {
  it.runIf(process.getuid?.() === 0)('is the one that has what an earlier sidecar left', () => {
    mkdirSync(join(dir, 'sidecar'));
    chownSync(join(dir, 'sidecar'), 58_712, 58_713);

    const account = sidecarAccount({ stateDir: dir });

    expect(account).toEqual({ KYBERNATE_SIDECAR_USER: '58712', KYBERNATE_GROUP: '58713' });
  });

  it('is a number where there is nothing yet', () => {
    expect(Object.values(sidecarAccount({ stateDir: dir })).join(' ')).toMatch(/^\d+ \d+$/);
  });
});

describe('withDevLock', () => {
  it('lets one caller in and names it to the other', async () => {
    await withDevLock(dir, async () => {
      await expect(withDevLock(dir, async () => 1)).rejects.toThrow(`process ${process.pid} is at it`);
    });

    expect(await withDevLock(dir, async () => 2)).toBe(2);
  });

  it('takes over from a holder that is dead, and from a torn file', async () => {
    writeFileSync(join(dir, 'lock.json'), JSON.stringify({ pid: process.pid, startTicks: '1' }));
    expect(await withDevLock(dir, async () => 1)).toBe(1);

    writeFileSync(join(dir, 'lock.json'), '{"pid":');
    expect(await withDevLock(dir, async () => 2)).toBe(2);
  });

  it('is released when the work fails', async () => {
    const failing = withDevLock(dir, async () => {
      throw new Error('no');
    });

    await expect(failing).rejects.toThrow('no');
    expect(existsSync(join(dir, 'lock.json'))).toBe(false);
  });
});

describe('containerd', () => {
  it('keeps everything below its directory', () => {
    const text = containerdConfig('/d', { restrictOomScoreAdj: true });
    const paths = [...text.matchAll(/"(\/[^"]*)"/g)].map((match) => match[1] ?? '');

    expect(paths.length).toBeGreaterThan(3);
    expect(paths.filter((path) => !path.startsWith('/d/'))).toEqual([]);
    expect(text).toContain('io.containerd.cri.v1.runtime"');
    expect(text).toMatch(/^version = 3$/m);
  });

  it('serves CRI on a machine whose root may not lower oom_score_adj', () => {
    const text = containerdConfig('/d', { cri: {}, restrictOomScoreAdj: true });

    expect(text).toContain('restrict_oom_score_adj = true');
    expect(text).toContain('io.containerd.runc.kybernate.v1');
  });
});

it('the Temporal server listens on loopback only and knows every search attribute', () => {
  const args = serverArgs('/d', 'n', { port: 1, http: 2, metrics: 3, ui: 4 });

  expect(args.join(' ')).toContain('--ip 127.0.0.1 --port 1');
  expect(args.join(' ')).toContain('--ui-ip 127.0.0.1 --ui-port 4');
  expect(args.filter((arg) => arg === '--search-attribute')).toHaveLength(6);
  expect(args).toContain('KybernateNode=Keyword');
});

it('workers do not inherit settings that point elsewhere', () => {
  const env = withoutSettings({
    HOME: '/h',
    KYBERNATE_STORE: 's3://prod',
    TEMPORAL_ADDRESS: 'prod:7233',
    AWS_ACCESS_KEY_ID: 'key',
    AWS_CA_BUNDLE: '/ca',
    KYBERNATE_LOG_LEVEL: 'debug',
    EMPTY: undefined,
  });

  expect(env).toEqual({ HOME: '/h', AWS_CA_BUNDLE: '/ca', KYBERNATE_LOG_LEVEL: 'debug' });
});

it('two dev environments have run directories of their own', () => {
  const [one, two] = ['/a', '/b'].map((path) => devPaths({ KYBERNATE_DEV_DIR: path }).runDir);

  expect(one).toMatch(/^\/run\/kybernate-dev-[0-9a-f]{8}$/);
  expect(one).not.toBe(two);
});

it.each([
  ['/usr/bin:/x', '/usr/bin:/x'],
  ['a b', "'a b'"],
  ["it's", String.raw`'it'\''s'`],
  ['$HOME', "'$HOME'"],
])('shellQuote makes a word of %j', (text, word) => {
  expect(shellQuote(text)).toBe(word);
});

it.each([
  ['/lib/x86_64-linux-gnu/libc.so.6', '/usr/lib/x86_64-linux-gnu/libc.so.6'],
  ['/bin/busybox', '/usr/bin/busybox'],
  ['/usr/bin/redis-cli', '/usr/bin/redis-cli'],
  ['/library/x', '/library/x'],
])('in an image %s is %s', (host, image) => {
  expect(imagePath(host)).toBe(image);
});
