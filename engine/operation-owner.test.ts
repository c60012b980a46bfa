import { expect, test } from 'vitest';
import { AGENT, isAgentOperation, isEarlierRun, isUnderWay, whileUnderWay } from './operation-owner.ts';

const OPERATION = 'b'.repeat(32);
const call = { workflowId: AGENT, runId: OPERATION };
/** somebody chose this id */
const namesake = { workflowId: AGENT, runId: '0197f1c2-8a3e-7c11-9d51-0b6a4c1f2e77' };

test('a workflow that somebody named as calls to the agent are is a workflow', async () => {
  expect(isAgentOperation(call)).toBe(true);
  expect(isAgentOperation(namesake)).toBe(false);
  expect(isAgentOperation({ workflowId: 'w', runId: OPERATION })).toBe(false);
  await whileUnderWay(namesake.runId, async () => expect(isUnderWay(namesake)).toBe(false));
});

test('runs of one workflow follow each other, calls to the agent do not', () => {
  expect(isEarlierRun({ workflowId: 'w', runId: 'r1' }, { workflowId: 'w', runId: 'r2' })).toBe(true);
  expect(isEarlierRun({ workflowId: 'v', runId: 'r1' }, { workflowId: 'w', runId: 'r2' })).toBe(false);
  expect(isEarlierRun({ ...namesake, runId: 'r-1' }, namesake)).toBe(true);
  expect(isEarlierRun(call, namesake)).toBe(false);
  expect(isEarlierRun(namesake, call)).toBe(false);
  expect(isEarlierRun(call, { ...call, runId: 'c'.repeat(32) })).toBe(false);
});
