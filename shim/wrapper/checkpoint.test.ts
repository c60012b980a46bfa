/* What becomes of a `runc checkpoint`, against a false agent and a false runc. */
import { beforeEach, describe, expect, it } from 'vitest';
import type { CheckpointContainerCall, CheckpointContainerResponse } from '../../core/contract/agent-checkpoint.ts';
import { type ErrorType, KybernateError } from '../../core/errors.ts';
import { type CheckpointDeps, checkpointByAgent } from './checkpoint.ts';

const GLOBALS = ['--root', '/run/containerd/runc/default', '--log', '/l', '--log-format', 'json'];
const ARGV = [...GLOBALS, 'checkpoint', '--image-path', 'images', '--work-path', '/w', '--leave-running', 'web'];
const DONE: CheckpointContainerResponse = {
  handled: true,
  source: 'running',
  gpuProcesses: 1,
  vramBytes: 5,
  freezeMs: 1,
  imageBytes: 9,
  warnings: ['a warning'],
};

let asked: CheckpointContainerCall[];
let ran: string[];
let logged: string[];

beforeEach(() => {
  [asked, ran, logged] = [[], [], []];
});

function deps(answer: CheckpointContainerResponse | ErrorType, usesGpu: boolean): CheckpointDeps {
  return {
    signal: new AbortController().signal,
    runcPath: '/bin/runc',
    cwd: '/bundle',
    agent: {
      checkpointContainer(call) {
        asked.push(call);
        return typeof answer === 'string' ? Promise.reject(new KybernateError(answer, 'why')) : Promise.resolve(answer);
      },
    },
    run: (file, args) => {
      ran.push([file, ...args].join(' '));
      return Promise.resolve({
        exitCode: 0,
        timedOut: false,
        cancelled: false,
        forceKilled: false,
        durationMs: 1,
        stdout: '',
        stderr: '',
      });
    },
    log: (_command, level, message) => logged.push(`${level} ${message}`),
    usesGpu: () => Promise.resolve(usesGpu),
  };
}

describe('checkpointByAgent', () => {
  it("tells the agent the caller's paths, made absolute, and logs its warnings", async () => {
    expect(await checkpointByAgent(deps(DONE, true), ARGV)).toEqual({ kind: 'done' });

    expect(asked).toEqual([
      {
        container: { id: 'web', namespace: 'default' },
        runcRoot: '/run/containerd/runc/default',
        imagePath: '/bundle/images',
        workPath: '/w',
        leaveRunning: true,
        tcp: 'close',
      },
    ]);
    expect(logged).toEqual(['warning kybernate: a warning']);
    expect(ran).toEqual([]);
  });

  it('takes the images for the work path, and `checkpoint` for the images, as runc does', async () => {
    await checkpointByAgent(deps(DONE, true), [...GLOBALS, 'checkpoint', '--tcp-established', 'web']);

    expect(asked).toMatchObject([
      { imagePath: '/bundle/checkpoint', workPath: '/bundle/checkpoint', leaveRunning: false, tcp: 'keep' },
    ]);
  });

  it("removes runc's traces of a container that has ended", async () => {
    await checkpointByAgent(deps({ ...DONE, source: 'stopped' }, true), [...GLOBALS, 'checkpoint', 'web']);

    expect(ran).toEqual([`/bin/runc ${GLOBALS.join(' ')} delete web`]);
  });

  it('leaves a container without a GPU to runc', async () => {
    expect(await checkpointByAgent(deps({ handled: false }, false), ARGV)).toEqual({ kind: 'pass-through' });
  });

  it.each<[ErrorType, boolean, string]>([
    ['NodeUnavailable', false, 'pass-through'],
    ['NodeUnavailable', true, 'failed'],
    ['ContainerNotFound', false, 'pass-through'],
    ['ContainerNotFound', true, 'failed'],
    ['DumpFailed', false, 'failed'],
    ['DumpFailed', true, 'failed'],
  ])('after %s, with a GPU in use: %s, is %s', async (type, usesGpu, kind) => {
    const outcome = await checkpointByAgent(deps(type, usesGpu), ARGV);

    expect(outcome).toMatchObject({
      kind,
      ...(kind === 'failed' && { message: expect.stringMatching(/^kybernate: container web: why/) }),
    });
  });

  it.each([
    [true, 'failed'],
    [false, 'pass-through'],
  ])('with --pre-dump and a GPU in use: %s, is %s without a word to the agent', async (usesGpu, kind) => {
    const outcome = await checkpointByAgent(deps(DONE, usesGpu), [...ARGV.slice(0, -1), '--pre-dump', 'web']);

    expect(outcome.kind).toBe(kind);
    expect(asked).toEqual([]);
  });
});
