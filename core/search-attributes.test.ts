import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { SEARCH_ATTRIBUTES } from './search-attributes.ts';

describe('temporal.yaml', () => {
  it('registers exactly the search attributes that the workflows set', () => {
    const text = readFileSync(join(import.meta.dirname, '..', 'temporal.yaml'), 'utf8');
    const { searchAttributes } = parse(text) as { searchAttributes: Record<string, string> };

    expect(searchAttributes).toEqual(
      Object.fromEntries(Object.values(SEARCH_ATTRIBUTES).map((name) => [name, 'Keyword'])),
    );
  });
});
