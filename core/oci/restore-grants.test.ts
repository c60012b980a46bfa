import { expect, it } from 'vitest';
import { mayRestore, parseRestoreGrants, type RestoreGrant } from './restore-grants.ts';

function parsed(text: string): readonly RestoreGrant[] {
  const grants = parseRestoreGrants(text);
  if (typeof grants === 'string') {
    throw new Error(grants);
  }
  return grants;
}

it.each([
  ['', 'shop', 'shop', true],
  ['', 'shop', 'bank', false],
  ['', 'shop', undefined, false],
  ['shop=bank', 'shop', 'bank', true],
  ['shop=bank', 'bank', 'shop', false],
  ['*=golden', 'any', 'golden', true],
  ['*=golden', 'any', 'bank', false],
  ['shop=*', 'shop', 'bank', true],
  ['shop=*', 'shop', undefined, false],
  ['a=b, shop=-', 'shop', undefined, true],
  ['shop=-', 'bank', undefined, false],
])('under %j a pod of %s may be restored from a checkpoint of %s: %s', (text, pod, owner, may) => {
  expect(mayRestore(parsed(text), pod, owner)).toBe(may);
});

it.each(['shop', 'shop=', '=bank', 'Shop=bank', 'a=b=c', 'shop=bank;x=y'])('%j is refused', (text) => {
  expect(parseRestoreGrants(text)).toContain('write <namespace of the pod>=<namespace of the checkpoint>');
});
