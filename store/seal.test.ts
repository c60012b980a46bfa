import { describe, expect, it } from 'vitest';
import { seal, unseal } from './seal.ts';

const TEXT = `${JSON.stringify({ version: 1, name: 'é', packs: [['a', 1]] }, undefined, 1)}\n`;

describe('seal', () => {
  it('keeps the text, which stays one JSON object', () => {
    const sealed = seal(TEXT);

    expect(unseal(sealed, 'there')).toBe(TEXT);
    expect(JSON.parse(new TextDecoder().decode(sealed))).toMatchObject({ version: 1, name: 'é' });
  });

  it('finds every flipped bit and every truncation', () => {
    const sealed = seal(TEXT);
    const damaged = Array.from({ length: sealed.length * 8 }, (_, bit) => {
      const copy = Uint8Array.from(sealed);
      copy[bit >> 3] = (copy[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      return copy;
    });
    const cut = Array.from({ length: sealed.length }, (_, length) => sealed.subarray(0, length));

    for (const bytes of [...damaged, ...cut]) {
      expect(() => unseal(bytes, 'there')).toThrow('there is damaged');
    }
  });

  it('refuses an object without a seal', () => {
    expect(() => unseal(Buffer.from(TEXT), 'there')).toThrow('there is damaged');
  });
});
