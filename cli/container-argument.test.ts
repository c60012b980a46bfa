import { describe, expect, it } from 'vitest';
import type { Metadata } from '../core/checkpoint/metadata.ts';
import { summaryOf } from '../store/registry.ts';
import { metadataOf } from '../test/harness/stored-metadata.ts';
import { matches } from './checkpoint-filter.ts';
import { capturedName } from './container-argument.ts';

const DOCKER = { name: 'web', image: { ref: 'web:1', id: 'sha256:1' }, version: '20.10', mounts: [] };

function taken(of: Partial<Metadata['container']>): ReturnType<typeof summaryOf> {
  const metadata = metadataOf('ck', '2026-03-01T09:30:00.000Z', '');
  return summaryOf({ ...metadata, container: { ...metadata.container, ...of } });
}

describe('a captured container is named, and found,', () => {
  it.each<[string, string, Partial<Metadata['container']>]>([
    ['by its id in containerd', 'default/redis', {}],
    [
      'as Docker does',
      'docker/web',
      { namespace: 'moby', id: '8f3a', docker: { ...DOCKER, config: {}, hostConfig: {}, networks: {} } },
    ],
    ['by its pod', 'shop/cart-0/app', { id: '77b0', pod: { namespace: 'shop', name: 'cart-0', container: 'app' } }],
  ])('%s', (_how, name, container) => {
    const metadata = taken(container);

    expect(capturedName(metadata.container)).toBe(name);
    expect(matches({ container: name }, { checkpointId: 'ck', metadata }, 0)).toBe(true);
    expect(matches({ container: metadata.container.id }, { checkpointId: 'ck', metadata }, 0)).toBe(true);
    expect(matches({ container: 'docker/other' }, { checkpointId: 'ck', metadata }, 0)).toBe(false);
  });
});
