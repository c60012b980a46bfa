import { describe, expect, it } from 'vitest';

import { parseRows } from './prerequisites.ts';
import { goProgress } from './go-install.ts';
import { runSetup } from './run-setup.ts';
import { setupSteps } from './steps.ts';
import { PURPOSES, type Step } from './step.ts';

interface Fake extends Step {
  readonly calls: string[];
}

/** A step that is there after its installation, or never when it is `broken`. */
function fakeStep(name: string, calls: string[], state: 'there' | 'missing' | 'broken' | 'by hand'): Fake {
  let there = state === 'there';
  const install = async (): Promise<void> => {
    calls.push(`install ${name}`);
    there = state === 'missing';
  };
  return {
    name,
    why: `reason of ${name}`,
    neededFor: ['run'],
    remedy: `remedy of ${name}`,
    calls,
    check: async () => {
      calls.push(`check ${name}`);
      return there
        ? { ok: true, version: '1.2', detail: 'in its place' }
        : { ok: false, detail: `${name} is not there` };
    },
    ...(state === 'by hand' ? {} : { install }),
  };
}

function recorder() {
  const lines: string[] = [];
  return { lines, stream: { write: (text: string) => lines.push(text.trimEnd()) } };
}

const env = { KYBERNATE_CACHE: '/nonexistent' };

describe('runSetup', () => {
  it('installs what is missing in the order of the steps, and only that', async () => {
    const calls: string[] = [];
    const steps = [fakeStep('a', calls, 'there'), fakeStep('b', calls, 'missing'), fakeStep('c', calls, 'missing')];
    const { lines, stream } = recorder();

    const results = await runSetup(steps, env, stream);

    expect(calls).toEqual(['check a', 'check b', 'install b', 'check b', 'check c', 'install c', 'check c']);
    expect(results.map(({ name, done }) => [name, done])).toEqual([
      ['a', 'found'],
      ['b', 'installed'],
      ['c', 'installed'],
    ]);
    expect(lines[0]).toBe('ok       a 1.2: in its place');
    expect(lines[1]).toContain('reason of b');
  });

  it('changes nothing the second time', async () => {
    const calls: string[] = [];
    const steps = [fakeStep('a', calls, 'missing')];
    await runSetup(steps, env, recorder().stream);
    calls.length = 0;

    const results = await runSetup(steps, env, recorder().stream);

    expect(calls).toEqual(['check a']);
    expect(results[0]?.done).toBe('found');
  });

  it('names everything that a person has to provide before it installs anything', async () => {
    const calls: string[] = [];
    const steps = [
      fakeStep('go', calls, 'by hand'),
      fakeStep('criu', calls, 'missing'),
      fakeStep('gcc', calls, 'by hand'),
    ];

    const run = runSetup(steps, env, recorder().stream);

    await expect(run).rejects.toMatchObject({ type: 'Incompatible', message: expect.stringMatching(/go is.*gcc is/s) });
    expect(calls).not.toContain('install criu');
  });

  it('fails when a step is still missing after its installation', async () => {
    const run = runSetup([fakeStep('a', [], 'broken')], env, recorder().stream);

    await expect(run).rejects.toMatchObject({ type: 'Incompatible', message: expect.stringContaining('remedy of a') });
  });
});

describe('the steps', () => {
  it.each(PURPOSES)('for %s begin with what only a person can provide, Debian packages next', (purpose) => {
    const steps = setupSteps([purpose]);
    const byHand = steps.filter((step) => step.install === undefined).length;

    expect(byHand).toBe(7);
    expect(steps.slice(0, byHand).every((step) => step.install === undefined)).toBe(true);
    expect(steps[byHand]?.name).toBe('Debian packages');
  });

  it('for a node need no server of the demo', () => {
    const names = setupSteps(['run']).map((step) => step.name);

    expect(names).toEqual(expect.arrayContaining(['criu', 'runc']));
    expect(names).not.toEqual(expect.arrayContaining(['temporal']));
    expect(names).not.toEqual(expect.arrayContaining(['versitygw']));
  });

  it('for the demo need the S3 server only with s3', () => {
    expect(setupSteps(['demo']).some((step) => step.name === 'versitygw')).toBe(false);
    expect(setupSteps(['demo', 's3']).some((step) => step.name === 'versitygw')).toBe(true);
  });
});

it('parseRows keeps the version of what is there and the way to get what is not', () => {
  const rows = parseRows(
    'go\tok\t1.26.8\tsomewhere\nroot\tok\tuid 0\t\nnpm\tmissing\tnot found\tapt-get install npm\n',
  );

  expect(rows).toEqual([
    { name: 'go', ok: true, version: '1.26.8', detail: 'on PATH', remedy: 'somewhere' },
    { name: 'root', ok: true, detail: 'uid 0', remedy: '' },
    { name: 'npm', ok: false, detail: 'not found', remedy: 'apt-get install npm' },
  ]);
});

it('goProgress counts what go fetches and compiles', () => {
  const line = goProgress();

  expect(line('go: downloading go.temporal.io/api v1.2.3')).toBe('1 modules fetched, now go.temporal.io/api');
  expect(line('internal/cpu')).toBe('1 packages compiled, now internal/cpu');
  expect(line('k8s.io/api/core/v1')).toBe('2 packages compiled, now k8s.io/api/core/v1');
});
