import { expect, it } from 'vitest';
import { encodeRuncOptions } from '../native/containerd/runc-options.ts';
import type { Run, RunResult } from '../native/run/run.ts';
import type { ContainerRecord } from '../native/containerd/containerd.ts';
import { runtimeRefusals } from './runtime-refusals.ts';

const ENDED = { timedOut: false, cancelled: false, forceKilled: false, durationMs: 1, stdout: '' };
const knows: Run = () => Promise.resolve({ ...ENDED, exitCode: 0, stderr: '' } satisfies RunResult);
const lacks: Run = () => Promise.resolve({ ...ENDED, exitCode: 1, stderr: 'unknown command checkpoint\n' });
const never: Run = () => Promise.reject(new Error('nothing is to be asked'));

function facts(bundle?: string): Parameters<typeof runtimeRefusals>[1] {
  const options = encodeRuncOptions({ binaryName: '/usr/bin/crun' });
  const record = { runtime: { name: 'io.containerd.runc.v2', options } } as ContainerRecord;
  return { record, runcRoot: '/run/r', ...(bundle === undefined ? {} : { bundle }) };
}

it.each<[string, Run, Parameters<typeof runtimeRefusals>[1], 'runc' | 'containerd', readonly RegExp[]]>([
  ['a container that runc knows is asked nothing', never, facts('/b'), 'runc', []],
  [
    'a runtime without a checkpoint is told',
    lacks,
    facts(),
    'runc',
    [/crun has no checkpoint \(unknown command checkpoint\)/],
  ],
  ['also for the engine that would call it', lacks, facts('/b'), 'containerd', [/crun has no checkpoint/]],
  ['one that has it needs the other engine', knows, facts(), 'runc', [/use engine "containerd"/]],
  ['and that engine takes it', knows, facts(), 'containerd', []],
])('%s', async (_title, run, of, engine, expected) => {
  expect(await runtimeRefusals(run, of, engine)).toEqual(expected.map((text) => expect.stringMatching(text) as string));
});
