import { describe, expect, it } from 'vitest';
import { schemaComments } from './schema-comments.ts';

const SOURCE = `
export const other = z.object({
  /** of another schema */
  node: z.string(),
});
export const input = z
  .strictObject({
    /** one line */
    node: nodeName,
    plain: z.string(),
    /**
     * two
     * lines
     */
    container: z
      .strictObject({
        /** nested */
        id: containerId.optional(),
      })
      .prefault({}),
    /** after the nested one */
    tcp: z.enum(['keep', 'close']).default('close'),
  })
  .refine((value) => value, {
    message: 'x',
  });
export const later = z.object({
  /** too late */
  tcp: z.string(),
});
`;

describe('schemaComments', () => {
  it('finds the comment of every field of one schema, by path', () => {
    expect([...schemaComments(SOURCE, 'input')]).toEqual([
      ['node', 'one line'],
      ['container', 'two lines'],
      ['container.id', 'nested'],
      ['tcp', 'after the nested one'],
    ]);
  });

  it('throws for a schema that is not there', () => {
    expect(() => schemaComments(SOURCE, 'missing')).toThrow('no exported schema missing');
  });
});
