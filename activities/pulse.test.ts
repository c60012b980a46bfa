import { describe, expect, it } from 'vitest';
import { signalIntervalMs } from './pulse.ts';

describe('signalIntervalMs', () => {
  it('is five seconds at first and never less', () => {
    expect(signalIntervalMs(0)).toBe(5000);
    expect(signalIntervalMs(60_000)).toBe(5000);
  });

  it("keeps a day's upload far below the limits of a workflow's history", () => {
    const dayMs = 86_400_000;
    let signals = 0;

    for (let nowMs = 0; nowMs < dayMs; nowMs += signalIntervalMs(nowMs)) {
      signals += 1;
    }

    expect(signals).toBeLessThan(1000);
  });
});
