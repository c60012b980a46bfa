import { expect, test } from 'vitest';
import { gpuOptions } from '../contract/gpu.ts';
import { withAnnotations } from './annotations.ts';

const DEFAULTS = gpuOptions.parse({});

test('without annotations the request stands', () => {
  expect(withAnnotations(DEFAULTS, {})).toEqual(DEFAULTS);
});

test('a container vouches for itself and names its hooks', () => {
  const annotations = {
    'kybernate.io/gpu-assume-safe': 'true',
    'kybernate.io/gpu-quiesce': '["/bin/empty", "--cache"]',
    'kybernate.io/gpu-resume': '["/bin/warm"]',
  };

  expect(withAnnotations(DEFAULTS, { annotations })).toMatchObject({
    assumeSafe: true,
    quiesce: { command: ['/bin/empty', '--cache'], timeoutMs: 30_000 },
    resume: { command: ['/bin/warm'], timeoutMs: 30_000 },
  });
});

test('a hook of the request comes before that of the container', () => {
  const options = gpuOptions.parse({ quiesce: { command: ['mine'] } });
  const annotations = { 'kybernate.io/gpu-quiesce': '["theirs"]' };

  expect(withAnnotations(options, { annotations }).quiesce?.command).toEqual(['mine']);
});

test('in a pod the annotation of one container comes before that of all', () => {
  const annotations = {
    'io.kubernetes.cri.container-name': 'app',
    'kybernate.io/gpu-quiesce': '["all"]',
    'kybernate.io/gpu-quiesce.app': '["app"]',
    'kybernate.io/gpu-quiesce.other': '["other"]',
  };

  expect(withAnnotations(DEFAULTS, { annotations }).quiesce?.command).toEqual(['app']);
});

test.each([
  ['kybernate.io/gpu-assume-safe', 'yes', /"yes" is none of true, false/],
  ['kybernate.io/gpu-quiesce', 'empty.sh', /"empty.sh" is no JSON array/],
  ['kybernate.io/gpu-quiesce', '[]', /no JSON array/],
  ['kybernate.io/gpu-resume', '[1]', /no JSON array/],
])('a value that means nothing is refused: %s=%s', (key, value, message) => {
  expect(() => withAnnotations(DEFAULTS, { annotations: { [key]: value } })).toThrow(message);
});
