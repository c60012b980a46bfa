import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import {
  controlEnv,
  nodeEnv,
  nodeSettings,
  readConfig,
  redacted,
  sidecarEnv,
  storeVariables,
  workerEnv,
} from './config.ts';

describe('readConfig', () => {
  it('needs no variable', () => {
    const config = readConfig(workerEnv, {});

    expect(config).toMatchObject({
      KYBERNATE_STATE_DIR: '/var/lib/kybernate',
      KYBERNATE_RUN_DIR: '/run/kybernate',
      KYBERNATE_RESTORE_FROM_ENV: 'deny',
      KYBERNATE_RESTORE_ROOTS: [],
    });
    expect(config.KYBERNATE_NODE).toBe(config.KYBERNATE_NODE.toLowerCase());
    expect(config.KYBERNATE_STORE).toBeUndefined();
  });

  it('counts an empty variable as not set', () => {
    expect(readConfig(workerEnv, { KYBERNATE_STORE: '', KYBERNATE_LOG_LEVEL: '' })).toMatchObject({
      KYBERNATE_LOG_LEVEL: 'info',
    });
  });

  it('tells the log nothing of a key', () => {
    const config = readConfig(workerEnv, { KYBERNATE_ENCRYPTION_KEY: 'c2VjcmV0' });

    expect(config.KYBERNATE_ENCRYPTION_KEY).toBe('c2VjcmV0');
    expect(JSON.stringify(redacted(config))).not.toContain('c2VjcmV0');
  });

  it('splits the restore roots at colons', () => {
    expect(readConfig(workerEnv, { KYBERNATE_RESTORE_ROOTS: '/a:/b/c:' }).KYBERNATE_RESTORE_ROOTS).toEqual([
      '/a',
      '/b/c',
    ]);
  });

  it.each([
    ['KYBERNATE_NODE', 'Node_A'],
    ['KYBERNATE_STATE_DIR', 'relative'],
    ['KYBERNATE_STORE', 'ftp://x'],
    ['KYBERNATE_STORE', 's3://'],
    ['KYBERNATE_RESTORE_ROOTS', '/a:b'],
    ['KYBERNATE_RESTORE_FROM_ENV', 'yes'],
    ['KYBERNATE_METRICS_ADDRESS', '9464'],
    ['KYBERNATE_SIDECAR_USER', 'a:b'],
    ['KYBERNATE_GROUP', '../x'],
    ['KYBERNATE_HOOKS_DIR', 'hooks.d'],
    ['KYBERNATE_HOOK_TIMEOUT_MS', '0'],
    ['KYBERNATE_HOOK_POLICY', 'perhaps'],
    ['KYBERNATE_HOOK_POLICY', 'fail,predump=warn'],
    ['KYBERNATE_HOOK_POLICY', 'pre-resume=fail'],
  ])('names %s with its value %s when it is wrong', (name, value) => {
    expect(() => readConfig(workerEnv, { [name]: value })).toThrow(`${name}: ${JSON.stringify(value)} is wrong`);
  });
});

describe('who reads what', () => {
  const env = {
    KYBERNATE_STORE: 's3://bucket',
    KYBERNATE_S3_ENDPOINT: 'http://127.0.0.1:7070',
    AWS_ACCESS_KEY_ID: 'key',
    AWS_SECRET_ACCESS_KEY: 'secret',
  };

  it('a node worker reads nothing of the store, not even a wrong value', () => {
    const config = readConfig(nodeEnv, { ...env, KYBERNATE_STORE: 'wrong' });

    expect(JSON.stringify(config)).not.toMatch(/bucket|7070|key|secret|wrong/);
    expect(Object.keys(config).filter((name) => /_STORE$|_S3_|AWS/.test(name))).toEqual([]);
  });

  it('tells which of them a process was given that should not have them', () => {
    const given = ['KYBERNATE_STORE', 'KYBERNATE_S3_ENDPOINT', 'AWS_SECRET_ACCESS_KEY'];

    expect(storeVariables({ ...env, PATH: '/bin', AWS_CA_BUNDLE: '/ca' })).toEqual(given);
  });

  it('a sidecar needs a store, a control worker does not', () => {
    expect(() => readConfig(sidecarEnv, {})).toThrow('KYBERNATE_STORE: "" is wrong');
    expect(readConfig(sidecarEnv, env)).toMatchObject({
      KYBERNATE_STORE: 's3://bucket',
      KYBERNATE_SIDECAR_USER: 'kybernate',
      KYBERNATE_GROUP: 'kybernate',
    });
    expect(readConfig(controlEnv, {}).KYBERNATE_STORE).toBeUndefined();
  });
});

describe('nodeSettings', () => {
  it('looks programs up beside CRIU first', () => {
    const settings = nodeSettings(
      readConfig(nodeEnv, { KYBERNATE_CRIU: '/opt/criu/sbin/criu', PATH: '/usr/bin:/bin' }),
    );

    expect(settings.programPath).toBe('/opt/criu/sbin:/usr/bin:/bin');
    expect(settings.runnerCommand.slice(-2)).toEqual([
      process.execPath,
      expect.stringMatching(/\/workers\/runner\.ts$/),
    ]);
  });

  it('keeps the keys of the worker from its runners', () => {
    const { runnerCommand } = nodeSettings(readConfig(nodeEnv, {}));
    const env = { PATH: '/usr/bin:/bin', TEMPORAL_API_KEY: 'k', TEMPORAL_TLS_CLIENT_KEY_DATA: 'k', OTHER: 'o' };
    const told = spawnSync(String(runnerCommand[0]), [...runnerCommand.slice(1, -2), 'env'], { env });

    expect(told.stdout.toString()).toContain('OTHER=o');
    expect(told.stdout.toString()).not.toMatch(/=k$/m);
  });

  it('reads the policy of hooks for all events and for one', () => {
    const policyOf = (text?: string): unknown =>
      nodeSettings(readConfig(nodeEnv, text === undefined ? {} : { KYBERNATE_HOOK_POLICY: text })).hooks?.policies;

    expect(policyOf()).toMatchObject({ 'pre-dump': 'fail', 'post-dump': 'fail' });
    expect(policyOf('pre-dump=warn, fail')).toMatchObject({ 'pre-dump': 'warn', 'post-dump': 'fail' });
    expect(policyOf('warn,post-dump=fail')).toMatchObject({ 'pre-dump': 'warn', 'post-dump': 'fail' });
  });

  it('names a keeper of CRIU only when it is given', () => {
    expect(nodeSettings(readConfig(nodeEnv, {}))).not.toHaveProperty('keeperDir');
    expect(nodeSettings(readConfig(nodeEnv, { KYBERNATE_KEEPER_DIR: '/opt/keeper' })).keeperDir).toBe('/opt/keeper');
  });
});

describe('redacted', () => {
  it('hides passwords in URLs', () => {
    const shown = redacted(
      readConfig(workerEnv, { KYBERNATE_S3_ENDPOINT: 'http://user:secret@s3:9000', PATH: '/bin' }),
    );

    expect(JSON.stringify(shown)).not.toContain('secret');
    expect(shown).not.toHaveProperty('PATH');
  });
});
