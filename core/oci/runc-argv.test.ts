import { describe, expect, it } from 'vitest';
import { parseRuncCheckpoint, parseRuncCreate, runcRestoreArgv } from './runc-argv.ts';

/** As containerd-shim-runc-v2 2.x calls runc. */
const OF_THE_SHIM = [
  '--root',
  '/run/containerd/runc/k8s.io',
  '--log',
  '/b/log.json',
  '--log-format',
  'json',
  '--systemd-cgroup',
  'create',
  '--bundle',
  '/b',
  '--pid-file',
  '/b/init.pid',
  '--console-socket',
  '/tmp/pty.sock',
  'create',
];

describe('parseRuncCreate', () => {
  it("reads the shim's call, even for a container that is called create", () => {
    expect(parseRuncCreate(OF_THE_SHIM)).toEqual({
      globals: OF_THE_SHIM.slice(0, 7),
      root: '/run/containerd/runc/k8s.io',
      log: '/b/log.json',
      logFormat: 'json',
      id: 'create',
      bundle: '/b',
      pidFile: '/b/init.pid',
      consoleSocket: '/tmp/pty.sock',
      noPivot: false,
    });
  });

  it('reads values behind an equals sign and the short form of bundle', () => {
    const create = parseRuncCreate(['--root=/r', 'create', '-b', '/b', '--no-pivot', '--preserve-fds', '2', 'web']);

    expect(create).toMatchObject({ root: '/r', bundle: '/b', noPivot: true, id: 'web', logFormat: 'text' });
  });

  it.each([[['start', 'web']], [['create', '--bundle', '/b']], [[]], [['--root', 'create', 'web']]])(
    'refuses %j',
    (argv) => {
      expect(() => parseRuncCreate(argv)).toThrow(/runc create/);
    },
  );
});

describe('runcRestoreArgv', () => {
  it('keeps the global options and what the shim waits for', () => {
    const argv = runcRestoreArgv(parseRuncCreate(OF_THE_SHIM), {
      imageDir: '/c/criu',
      workDir: '/w',
      bundle: '/b',
      criuFlags: ['--tcp-established'],
    });

    expect(argv.join(' ')).toBe(
      '--root /run/containerd/runc/k8s.io --log /b/log.json --log-format json --systemd-cgroup restore --detach ' +
        '--no-subreaper --bundle /b --image-path /c/criu --work-path /w --pid-file /b/init.pid ' +
        '--console-socket /tmp/pty.sock --tcp-established create',
    );
  });
});

describe('parseRuncCheckpoint', () => {
  it("reads the shim's call", () => {
    const argv = [
      ...OF_THE_SHIM.slice(0, 7),
      'checkpoint',
      '--image-path',
      '/i',
      '--work-path=/w',
      '--leave-running',
      '--tcp-established',
      '--empty-ns',
      'network',
      'web',
    ];

    expect(parseRuncCheckpoint(argv)).toEqual({
      globals: OF_THE_SHIM.slice(0, 7),
      root: '/run/containerd/runc/k8s.io',
      log: '/b/log.json',
      logFormat: 'json',
      id: 'web',
      imagePath: '/i',
      workPath: '/w',
      leaveRunning: true,
      tcpEstablished: true,
      options: ['--tcp-established', '--empty-ns'],
    });
  });

  it('ends the container unless it is told otherwise', () => {
    expect(parseRuncCheckpoint(['checkpoint', '--leave-running=false', 'web'])).toMatchObject({
      root: '/run/runc',
      id: 'web',
      leaveRunning: false,
      tcpEstablished: false,
    });
  });

  it('refuses another command and a missing id', () => {
    expect(() => parseRuncCheckpoint(['restore', 'web'])).toThrow(/not a runc checkpoint/);
    expect(() => parseRuncCheckpoint(['checkpoint', '--image-path', 'web'])).toThrow(/without a container id/);
  });
});
