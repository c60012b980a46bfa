import { describe, expect, it } from 'vitest';
import { ANNOTATIONS, LABELS, restoreWish } from './annotations.ts';
import type { OciSpec } from './spec.ts';

const NOTHING = { onFailure: 'fail', tcp: 'close', unverified: false };

const CASES: Record<string, [OciSpec, object | undefined]> = {
  'an empty specification asks for nothing': [{}, undefined],
  'an annotation names the checkpoint': [
    { annotations: { 'kybernate.io/restore-from': 'ck-1' } },
    { ...NOTHING, restoreFrom: 'ck-1', origin: 'annotation' },
  ],
  'the annotation of one container of a pod wins over that of the pod': [
    {
      annotations: {
        'kybernate.io/restore-from': 'ck-pod',
        'kybernate.io/restore-from.app': 'ck-app',
        'io.kubernetes.cri.container-name': 'app',
      },
    },
    { ...NOTHING, restoreFrom: 'ck-app', origin: 'annotation' },
  ],
  'the annotation of another container of the pod is not ours': [
    {
      annotations: { 'kybernate.io/restore-from.app': 'ck-app', 'io.kubernetes.cri.container-name': 'sidecar' },
    },
    undefined,
  ],
  'the sandbox of a pod asks for nothing': [
    { annotations: { 'kybernate.io/restore-from': 'ck', 'io.kubernetes.cri.container-type': 'sandbox' } },
    undefined,
  ],
  'the last variable counts': [
    { process: { env: ['RESTORE_FROM=a', 'X=RESTORE_FROM=c', 'RESTORE_FROM=b'] } },
    { ...NOTHING, restoreFrom: 'b', origin: 'environment' },
  ],
  'an empty variable asks for nothing': [{ process: { env: ['RESTORE_FROM='] } }, undefined],
  'an annotation wins over the variable': [
    { annotations: { 'kybernate.io/restore-from': 'a' }, process: { env: ['RESTORE_FROM=b'] } },
    { ...NOTHING, restoreFrom: 'a', origin: 'annotation' },
  ],
  'every other key is read': [
    {
      annotations: {
        'kybernate.io/restore-from': '/images/x',
        'kybernate.io/operation': '0'.repeat(32),
        'kybernate.io/on-failure': 'cold-start',
        'kybernate.io/tcp': 'keep',
        'kybernate.io/unverified': 'true',
        'io.kubernetes.cri.sandbox-namespace': 'shop',
        'io.kubernetes.cri.sandbox-name': 'web-0',
        'io.kubernetes.cri.sandbox-uid': 'u',
      },
    },
    {
      restoreFrom: '/images/x',
      origin: 'annotation',
      operationId: '0'.repeat(32),
      onFailure: 'cold-start',
      tcp: 'keep',
      unverified: true,
      pod: { namespace: 'shop', name: 'web-0', uid: 'u', named: false },
    },
  ],
  'a pod may be restored at every start, in a time of its own, container by container, under CRI-O too': [
    {
      annotations: {
        'kybernate.io/restore-from': 'ck-pod',
        'kybernate.io/restore-from.app': 'ck',
        'kybernate.io/restore': 'first-start',
        'kybernate.io/restore.app': 'every-start',
        'kybernate.io/on-failure.app': 'wait',
        'kybernate.io/restore-timeout': '10m',
        'io.kubernetes.container.name': 'app',
        'io.kubernetes.pod.namespace': 'shop',
        'io.kubernetes.pod.name': 'web-0',
        'io.kubernetes.pod.uid': 'u',
      },
    },
    {
      restoreFrom: 'ck',
      origin: 'annotation',
      onFailure: 'wait',
      tcp: 'close',
      unverified: false,
      everyStart: true,
      timeoutMs: 600_000,
      pod: { namespace: 'shop', name: 'web-0', uid: 'u', container: 'app', named: true },
    },
  ],
  'the sandbox of a pod asks for nothing under CRI-O': [
    { annotations: { 'kybernate.io/restore-from': 'ck', 'io.kubernetes.cri-o.ContainerType': 'sandbox' } },
    undefined,
  ],
};

describe('restoreWish', () => {
  it.each(Object.entries(CASES))('%s', (_title, [spec, wish]) => {
    expect(restoreWish(spec)).toEqual(wish);
  });

  it.each([
    ['kybernate.io/on-failure', 'retry'],
    ['kybernate.io/tcp', 'yes'],
    ['kybernate.io/unverified', 'True'],
    ['kybernate.io/restore', 'always'],
  ])('refuses %s: %s, naming the key and what it may be', (key, value) => {
    const spec = { annotations: { 'kybernate.io/restore-from': 'ck', [key]: value } };

    expect(() => restoreWish(spec)).toThrow(new RegExp(`${key}.*${value}.*none of`));
  });
});

it('a time for the restore has a unit', () => {
  const spec = { annotations: { 'kybernate.io/restore-from': 'ck', 'kybernate.io/restore-timeout': '90' } };

  expect(() => restoreWish(spec)).toThrow(/restore-timeout: "90" is no time such as 90s/);
});

describe('the keys', () => {
  it('all lie below kybernate.io and are kebab case', () => {
    for (const key of [...Object.values(ANNOTATIONS), ...Object.values(LABELS)]) {
      expect(key).toMatch(/^kybernate\.io\/[a-z]+(-[a-z]+)*$/);
    }
  });
});
