import { describe, expect, it } from 'vitest';
import * as messages from './messages.ts';

const KINDS = { query: 'Query', signal: 'Signal' } as const;

describe('messages', () => {
  it.each(Object.entries(messages))('%s is named after its wire name and kind', (name, { type, name: wire }) => {
    expect(name).toBe(`${wire}${KINDS[type]}`);
  });
});
