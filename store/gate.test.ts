import { describe, expect, it } from 'vitest';
import { Gate } from './gate.ts';

describe('gate', () => {
  it('lets in what fits, in order, and what weighs more than all alone', async () => {
    const gate = new Gate(10);
    const entered: string[] = [];
    const enter = (name: string, weight: number): Promise<() => void> =>
      gate.enter(weight).then((leave) => {
        entered.push(name);
        return leave;
      });

    const leaveFirst = await enter('six', 6);
    const large = enter('twelve', 12);
    const small = enter('two', 2);
    await Promise.resolve();
    // Two would fit, but does not overtake.
    expect(entered).toEqual(['six']);

    leaveFirst();
    const leaveLarge = await large;
    expect(entered).toEqual(['six', 'twelve']);
    leaveLarge();
    (await small)();
    expect(entered).toEqual(['six', 'twelve', 'two']);
    expect(gate.isEmpty).toBe(true);
  });

  it('forgets who stops waiting, and lets in who stood behind', async () => {
    const gate = new Gate(10);
    const stop = new AbortController();
    const leave = await gate.enter(6);
    const large = gate.enter(8, stop.signal);
    const small = gate.enter(2);
    stop.abort(new Error('stopped'));

    await expect(large).rejects.toThrow('stopped');
    (await small)();
    leave();
    expect(gate.isEmpty).toBe(true);
  });

  it('keeps the waiters of others when two of one signal stop, the first of which let the second in', async () => {
    const gate = new Gate(52);
    const stop = new AbortController();
    const leave = await gate.enter(40);
    const heavy = gate.enter(26, stop.signal);
    const light = gate.enter(10, stop.signal);
    const other = gate.enter(20, new AbortController().signal);
    stop.abort(new Error('stopped'));

    await expect(heavy).rejects.toThrow('stopped');
    (await light)();
    leave();
    (await other)();
    expect(gate.isEmpty).toBe(true);
  });
});
