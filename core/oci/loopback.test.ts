import { expect, it } from 'vitest';
import { withLoopback } from './loopback.ts';

const OWN = { linux: { namespaces: [{ type: 'network' }] } };

it('a container with a network namespace of its own gets one hook behind its others, however often it is restored', () => {
  const hooks = { createRuntime: [{ path: '/bin/own' }], prestart: [{ path: '/bin/first' }] };

  const once = withLoopback({ ...OWN, hooks });

  expect(once.hooks).toMatchObject({
    prestart: [{ path: '/bin/first' }],
    createRuntime: [{ path: '/bin/own' }, { path: '/bin/sh' }],
  });
  expect(withLoopback(once)).toEqual(once);
});

it.each([
  ["the host's network", {}],
  ['a network that it joins', { linux: { namespaces: [{ type: 'network', path: '/run/netns/x' }] } }],
])('a container with %s is left alone', (_title, spec) => {
  expect(withLoopback(spec)).toBe(spec);
});
