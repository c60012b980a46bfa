import { describe, expect, it } from 'vitest';
import { nodeSettings, readWorkerConfig, redacted } from './config.ts';

describe('readWorkerConfig', () => {
  it('needs no variable', () => {
    const config = readWorkerConfig({});

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
    expect(readWorkerConfig({ KYBERNATE_STORE: '', KYBERNATE_LOG_LEVEL: '' })).toMatchObject({
      KYBERNATE_LOG_LEVEL: 'info',
    });
  });

  it('splits the restore roots at colons', () => {
    expect(readWorkerConfig({ KYBERNATE_RESTORE_ROOTS: '/a:/b/c:' }).KYBERNATE_RESTORE_ROOTS).toEqual(['/a', '/b/c']);
  });

  it.each([
    ['KYBERNATE_NODE', 'Node_A'],
    ['KYBERNATE_STATE_DIR', 'relative'],
    ['KYBERNATE_STORE', 'ftp://x'],
    ['KYBERNATE_STORE', 's3://'],
    ['KYBERNATE_RESTORE_ROOTS', '/a:b'],
    ['KYBERNATE_RESTORE_FROM_ENV', 'yes'],
    ['KYBERNATE_METRICS_ADDRESS', '9464'],
  ])('names %s with its value %s when it is wrong', (name, value) => {
    expect(() => readWorkerConfig({ [name]: value })).toThrow(`${name}: ${JSON.stringify(value)} is wrong`);
  });
});

describe('nodeSettings', () => {
  it('looks programs up beside CRIU first', () => {
    const settings = nodeSettings(readWorkerConfig({ KYBERNATE_CRIU: '/opt/criu/sbin/criu', PATH: '/usr/bin:/bin' }));

    expect(settings.programPath).toBe('/opt/criu/sbin:/usr/bin:/bin');
    expect(settings.runnerCommand.slice(-2)).toEqual([
      process.execPath,
      expect.stringMatching(/\/workers\/runner\.ts$/),
    ]);
  });

  it('names a keeper of CRIU only when it is given', () => {
    expect(nodeSettings(readWorkerConfig({}))).not.toHaveProperty('keeperDir');
    expect(nodeSettings(readWorkerConfig({ KYBERNATE_KEEPER_DIR: '/opt/keeper' })).keeperDir).toBe('/opt/keeper');
  });
});

describe('redacted', () => {
  it('hides passwords in URLs', () => {
    const shown = redacted(readWorkerConfig({ KYBERNATE_S3_ENDPOINT: 'http://user:secret@s3:9000', PATH: '/bin' }));

    expect(JSON.stringify(shown)).not.toContain('secret');
    expect(shown).not.toHaveProperty('PATH');
  });
});
