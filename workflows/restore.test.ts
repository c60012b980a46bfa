import { describe, expect, it } from 'vitest';
import { CONTAINER_ID_PATTERN } from '../core/ids.ts';
import { derivedId } from './restore.ts';

const RANDOM = '0123abcd-4567-89ef-0123-456789abcdef';

describe('derivedId', () => {
  it('is the source with eight random digits', () => {
    expect(derivedId('redis', RANDOM)).toBe('redis-r0123abcd');
  });

  it.each(['x'.repeat(76), `${'x'.repeat(65)}-tail`, `${'y'.repeat(64)}._z`])('fits containerd for %s', (source) => {
    const id = derivedId(source, RANDOM);

    expect(id.length).toBeLessThanOrEqual(76);
    expect(id).toMatch(CONTAINER_ID_PATTERN);
  });
});
