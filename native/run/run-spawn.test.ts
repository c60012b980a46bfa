import { describe, expect, it } from 'vitest';
import { runInherited, runSpawn } from './run-spawn.ts';

describe('runSpawn', () => {
  it('tells exit code, output and input apart', async () => {
    const result = await runSpawn('sh', ['-c', 'cat; echo bad >&2; exit 3'], { input: 'in' });

    expect(result).toMatchObject({ exitCode: 3, stdout: 'in', stderr: 'bad\n', timedOut: false, cancelled: false });
  });

  it('reports a program that cannot be started instead of throwing', async () => {
    expect(await runSpawn('/nowhere/program', [])).toMatchObject({ startError: 'ENOENT' });
  });

  it('kills a program that takes too long', async () => {
    const result = await runSpawn('sleep', ['60'], { timeoutMs: 50 });

    expect(result).toMatchObject({ signal: 'SIGKILL', timedOut: true, forceKilled: true });
  });

  it('starts nothing once it is cancelled, and kills what runs when it is', async () => {
    const stop = new AbortController();
    const running = runSpawn('sleep', ['60'], { signal: stop.signal });

    stop.abort();

    expect(await running).toMatchObject({ cancelled: true, signal: 'SIGKILL' });
    expect(await runSpawn('true', [], { signal: stop.signal })).toMatchObject({ startError: 'cancelled' });
  });

  it('keeps the end of a long output', async () => {
    const result = await runSpawn('sh', ['-c', 'seq 1 20000'], { maxOutputBytes: 12 });

    expect(result.stdout).toBe('19999\n20000\n');
  });

  it('keeps PATH when the environment is replaced', async () => {
    const result = await runSpawn('sh', ['-c', 'echo ${HOME-none} $A'], { env: { A: '1' } });

    expect(result.stdout).toBe('none 1\n');
  });

  it('does not fail when the program ends without reading its input', async () => {
    expect(await runSpawn('true', [], { input: 'x'.repeat(1_000_000) })).toMatchObject({ exitCode: 0 });
  });
});

describe('runInherited', () => {
  it('ends the whole group when the time is up', async () => {
    const begun = performance.now();

    const result = await runInherited('sh', ['-c', 'sleep 60 & wait'], { timeoutMs: 100 });

    expect(result).toMatchObject({ timedOut: true, signal: 'SIGKILL', stdout: '' });
    expect(performance.now() - begun).toBeLessThan(10_000);
  });
});
