import { describe, expect, it } from 'vitest';
import { Compensation } from './compensation.ts';

/** A stack of undos that note their names; those in `failing` throw. */
function stack(failing: readonly string[] = []) {
  const undo = new Compensation();
  const ran: string[] = [];
  const run = (name: string) => async (): Promise<void> => {
    ran.push(name);
    if (failing.includes(name)) {
      throw new Error(`${name} failed`);
    }
  };
  return { undo, ran, push: (name: string, options = {}) => undo.push(name, run(name), options) };
}

describe('Compensation', () => {
  it('undoes in reverse order, each once', async () => {
    const { undo, ran, push } = stack();
    push('first');
    push('second');
    push('third');

    const report = await undo.run();
    await undo.run();

    expect(ran).toEqual(['third', 'second', 'first']);
    expect(report).toMatchObject({ done: ['third', 'second', 'first'], failed: [], skipped: [] });
  });

  it('leaves for the end what is not urgent', async () => {
    const { undo, ran, push } = stack();
    push('first');
    push('mark', { last: true });
    push('second');

    await undo.run();

    expect(ran).toEqual(['second', 'first', 'mark']);
  });

  it('forgets what is settled', async () => {
    const { undo, ran, push } = stack();
    push('kept');
    push('settled');

    undo.settle('settled');
    await undo.run();

    expect(ran).toEqual(['kept']);
    expect(undo.isEmpty).toBe(true);
  });

  it('goes on after an undo that failed, and reports it', async () => {
    const { undo, ran, push } = stack(['second']);
    push('first');
    push('second');

    const report = await undo.run();

    expect(ran).toEqual(['second', 'first']);
    expect(report.failed).toMatchObject([{ name: 'second', message: 'second failed' }]);
  });

  it('leaves what comes after a failed barrier, but for what always runs', async () => {
    const { undo, ran, push } = stack(['resume']);
    push('lock', { always: true });
    push('discard');
    push('resume', { barrier: true });

    const report = await undo.run();

    expect(ran).toEqual(['resume', 'lock']);
    expect(report).toMatchObject({ done: ['lock'], skipped: ['discard'] });
  });
});
