import { expect, it } from 'vitest';
import { keeperVariables } from './criu-keeper.ts';
import type { OperationPlan } from './operation.ts';

function plan(version: 1 | 2, keeperDir?: string): OperationPlan {
  return {
    settings: { programPath: '/opt/criu/sbin:/usr/bin', ...(keeperDir === undefined ? {} : { keeperDir }) },
    facts: { freezer: { version, path: '/sys/fs/cgroup/x' }, initHostPid: 42 },
  } as OperationPlan;
}

it('keeperVariables leaves PATH as it is without a keeper', () => {
  expect(keeperVariables(plan(1))).toEqual({ PATH: '/opt/criu/sbin:/usr/bin' });
});

it.each([
  [1, '/sys/fs/cgroup/x/freezer.state'],
  [2, '/sys/fs/cgroup/x/cgroup.freeze'],
] as const)('keeperVariables puts the keeper before CRIU and names the freezer of cgroup v%i', (version, freezer) => {
  expect(keeperVariables(plan(version, '/keeper'))).toEqual({
    PATH: '/keeper:/opt/criu/sbin:/usr/bin',
    KYBERNATE_FREEZER: freezer,
    KYBERNATE_INIT_PID: '42',
  });
});
