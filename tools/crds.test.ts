import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { parse } from 'yaml';
import { crdFiles } from './crds.ts';

test.each([...crdFiles()])('%s is made from the schemas (else: npm run gen)', (file, wanted) => {
  expect(readFileSync(join(import.meta.dirname, '..', file), 'utf8')).toBe(wanted);
});

test('the CRDs say nothing that a structural schema may not', () => {
  for (const text of crdFiles().values()) {
    const words = new Set<string>();
    JSON.stringify(parse(text), (key, value: unknown) => {
      words.add(key);
      return value;
    });
    expect([...words].filter((word) => ['$schema', '$ref', '$defs', 'propertyNames', 'const'].includes(word))).toEqual(
      [],
    );
    expect(text).not.toContain('additionalProperties: false');
  }
});
