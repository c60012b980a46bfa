/* What is wrong with a request or an object: values that no field of a kind can have, keys that nobody knows, no object at all. */

/** What a field holds; every value of `wrongValue` is wrong for every field of the kind. */
export type FieldKind = 'word' | 'text' | 'path' | 'count' | 'choice' | 'flag' | 'record' | 'list';

export interface Shape {
  /** accepted as it is */
  readonly valid: Readonly<Record<string, unknown>>;
  /** path of a field, joined by dots, to what it holds */
  readonly fields: Readonly<Record<string, FieldKind>>;
  /** without one of these it is not */
  readonly required: readonly string[];
}

export interface Malformed {
  /** for the one who reads of a failure */
  readonly what: string;
  readonly body: unknown;
}

type Random = () => number;

const NO_TEXT: readonly unknown[] = [null, 7, true, [], {}, ['a'], { a: 'b' }];
/** Half a surrogate pair last: what comes as protobuf cannot hold it. */
const NO_WORD: readonly string[] = [
  '',
  ' ',
  '.',
  '..',
  '../../etc/passwd',
  '/etc/passwd',
  'a/b',
  'a\0b',
  'a\nb',
  'a b',
  '-a',
  'é',
  '\u202eba',
  '🙂'.repeat(50),
  'x'.repeat(5000),
  '%2e%2e%2f',
  '${jndi:ldap://a}',
  "'; drop table checkpoints; --",
  '\ud83d',
];
const NO_PATH: readonly string[] = ['', 'relative', '../..', '/a/../b', '/a\0b', `/${'x/'.repeat(3000)}`, '/a\ud83d'];
const WRONG: Readonly<Record<FieldKind, readonly unknown[]>> = {
  word: [...NO_TEXT, ...NO_WORD],
  text: NO_TEXT,
  path: [...NO_TEXT, ...NO_PATH],
  count: [null, 'five', '5', true, [], {}, -1, 0.5, 1e300, 2 ** 60, -(2 ** 40)],
  choice: [...NO_TEXT, '', 'sometimes', 'RESUME', '__proto__', 'constructor', 'x'.repeat(5000)],
  flag: [null, 'true', 'maybe', 0, 1, [], {}],
  record: [null, 'x', 7, true, [], [[]]],
  list: [null, 'x', 7, true, {}, [null], [7], [{}], [[]]],
};
const NO_OBJECT: readonly unknown[] = [null, 7, 'text', true, [], [[]], [null]];
const NO_KEY: readonly string[] = [
  '',
  'nodes',
  'constructor',
  'toString',
  'hasOwnProperty',
  '__proto__',
  '../..',
  '\0',
  '\ud83d',
  'x'.repeat(10_000),
];

/** @param values at least one */
export function pick<Value>(values: readonly Value[], random: Random): Value {
  return values[Math.floor(random() * values.length)] as Value;
}

/** @param like only such values: what a format can carry */
export function wrongValue(kind: FieldKind, random: Random, like: (value: unknown) => boolean = () => true): unknown {
  return pick(WRONG[kind].filter(like), random);
}

/** Something of the shape that is wrong in one place. */
export function malformed(shape: Shape, random: Random): Malformed {
  const { valid, fields, required } = shape;
  switch (pick(['field', 'field', 'field', 'field', 'key', 'missing', 'nothing'] as const, random)) {
    case 'field': {
      const path = pick(Object.keys(fields), random);
      const value = wrongValue(fields[path] ?? 'text', random);
      return { what: `${path} = ${shown(value)}`, body: withField(valid, path, value) };
    }
    case 'key': {
      const key = pick(NO_KEY, random);
      return { what: `key ${shown(key)}`, body: withField(valid, key, 'x', [key]) };
    }
    case 'missing': {
      const lost = pick(required, random);
      return { what: `no ${lost}`, body: Object.fromEntries(Object.entries(valid).filter(([key]) => key !== lost)) };
    }
    case 'nothing': {
      const body = pick(NO_OBJECT, random);
      return { what: `${shown(body)} in place of it`, body };
    }
    default:
      throw new Error('there is no other way');
  }
}

/** A copy that has this value there, as a property of its own, whatever its name. @param keys of the path */
export function withField(
  object: Readonly<Record<string, unknown>>,
  path: string,
  value: unknown,
  keys: readonly string[] = path.split('.'),
): Record<string, unknown> {
  const [key = '', ...rest] = keys;
  const inner = object[key];
  const below = typeof inner === 'object' && inner !== null ? (inner as Record<string, unknown>) : {};
  const copy = { ...object };
  Object.defineProperty(copy, key, {
    value: rest.length === 0 ? value : withField(below, path, value, rest),
    enumerable: true,
    configurable: true,
    writable: true,
  });
  return copy;
}

export function shown(value: unknown): string {
  return (JSON.stringify(value) ?? 'undefined').slice(0, 60);
}
