import { expect, test } from 'vitest';
import { chartValues } from './chart-values.ts';

test('every value of the chart is described where helm checks it', () => {
  const undescribed = chartValues().filter(({ meaning }) => meaning === undefined);

  expect(undescribed.map(({ name }) => name)).toEqual([]);
});

// Helm itself refuses a value of values.yaml that the schema does not have: `helm lint` in test/kubernetes/chart.test.ts.
test('every value that the schema has stands in values.yaml with its default', () => {
  const absent = chartValues().filter((value) => value.default === undefined);

  expect(absent.map(({ name }) => name)).toEqual(['enabled', 'global']);
});
