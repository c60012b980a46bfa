import { describe, expect, it } from 'vitest';
import { allowedStandstillMs, livenessProbe, planStandstill } from './liveness.ts';

const DEFAULTS = livenessProbe.parse({});
const HOLD_MS = 600_000;

it.each([
  ['that of Kubernetes’ defaults', {}, 21_000],
  ['one that must never fail', { failureThreshold: 1 }, 1000],
  ['one whose answers may take longer than its period', { periodSeconds: 2, timeoutSeconds: 5 }, 15_000],
])('a freeze ends before the last probe that counts does: %s', (_name, probe, allowedMs) => {
  expect(allowedStandstillMs(livenessProbe.parse(probe))).toBe(allowedMs);
});

describe('a freeze budget', () => {
  it.each([
    ['is a minute without a probe', undefined, 60_000],
    ['leaves the guard its second within what the probe allows', DEFAULTS, 20_000],
    ['is half of what a probe allows that allows next to nothing', { ...DEFAULTS, failureThreshold: 1 }, 500],
    ['is a minute under a patient probe', { ...DEFAULTS, periodSeconds: 60 }, 60_000],
  ])('that nobody gave %s', (_fact, probe, freezeBudgetMs) => {
    const wish = { after: 'resume', holdBudgetMs: HOLD_MS, livenessProbe: probe } as const;

    expect(planStandstill(wish)).toEqual({ freezeBudgetMs });
  });

  it('may be what the probe allows, and is refused beyond it with the numbers and what to do', () => {
    const wish = { after: 'resume', holdBudgetMs: HOLD_MS, livenessProbe: DEFAULTS } as const;

    expect(planStandstill({ ...wish, freezeBudgetMs: 21_000 })).toEqual({ freezeBudgetMs: 21_000 });
    expect(planStandstill({ ...wish, freezeBudgetMs: 21_001 }).refusal).toMatch(
      /allows 21000 ms \(periodSeconds 10, .*freeze budget is 21001 ms.*freezeBudgetMs of at most 21000/,
    );
  });
});

it('a source that is held stands still for both budgets', () => {
  const wish = { after: 'hold', freezeBudgetMs: 5000, livenessProbe: DEFAULTS } as const;

  expect(planStandstill({ ...wish, holdBudgetMs: 16_000 })).toEqual({ freezeBudgetMs: 5000 });
  expect(planStandstill({ ...wish, holdBudgetMs: 16_001 }).refusal).toContain('a shorter holdBudgetMs');
});

it('a source that is to end is warned about: its kubelet may be earlier', () => {
  const stopped = planStandstill({ after: 'stop', holdBudgetMs: HOLD_MS, livenessProbe: DEFAULTS });

  expect(stopped).toEqual({ freezeBudgetMs: 20_000, warning: expect.stringContaining('allows 21000 ms') as string });
});
