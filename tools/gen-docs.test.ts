import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { CLI_ERRORS } from '../cli/exit-codes.ts';
import { ERRORS } from '../core/errors.ts';
import { readRows, reasonIn, reasonOf } from '../test/harness/matrix-data.ts';
import { GENERATED_FILES, currentAndWanted, withSections } from './gen-docs.ts';

describe('the generated tables', () => {
  it.each(GENERATED_FILES)('of %s are current (else: node tools/gen-docs.ts)', async (file) => {
    const { current, wanted } = await currentAndWanted(file);

    expect(current).toBe(wanted);
  });

  it('replace what stands between their markers and nothing else', () => {
    const text = 'a\n<!-- generated: x -->\nold\n<!-- end -->\nb\n<!-- generated: x --><!-- end -->\n';

    expect(withSections(text, new Map([['x', 'new']]))).toBe(
      'a\n<!-- generated: x -->\n\nnew\n\n<!-- end -->\nb\n<!-- generated: x --><!-- end -->\n',
    );
  });

  it('are not left out by a slip in a name', () => {
    expect(() => withSections('<!-- generated: y -->\n<!-- end -->', new Map())).toThrow('nobody generates');
  });
});

it('the reasons of the support matrix have nothing of one run, and stand below it once', () => {
  const reasons = readRows().flatMap(({ cells }) =>
    Object.values(cells).flatMap((outcome) => (outcome === 'passed' ? [] : [reasonOf(outcome)])),
  );

  expect(reasons).toEqual(reasons.map(reasonIn));
  expect(reasons.filter((reason) => /kyb-|node-\w{6}|\bpid \d|process \d/.test(reason))).toEqual([]);
});

describe('docs/errors.md', () => {
  const text = readFileSync(join(import.meta.dirname, '../docs/errors.md'), 'utf8');
  const listed = [...text.matchAll(/^\| `(\w+)` +\| +(\d+) /gm)].map(
    ([, type, code]) => `${String(type)} ${String(code)}`,
  );
  const known = Object.entries({ ...ERRORS, ...CLI_ERRORS }).map(([type, row]) => `${type} ${String(row.exitCode)}`);

  it('lists every error of the code with its exit code, and no other', () => {
    expect(listed.toSorted()).toEqual(known.toSorted());
  });

  it('explains every error below its table', () => {
    const explained = new Set([...text.matchAll(/^### `(\w+)`$/gm)].map(([, type]) => type));

    expect(Object.keys(ERRORS).filter((type) => !explained.has(type))).toEqual([]);
    expect([...explained].filter((type) => !Object.hasOwn({ ...ERRORS, ...CLI_ERRORS }, type ?? ''))).toEqual([]);
  });
});
