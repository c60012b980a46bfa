/* cgroup.img as our dumps leave it, and with what CRIU needs to find a new place for the processes. */
import { describe, expect, it } from 'vitest';
import { withCgroupDirectories } from './cgroup-image.ts';
import { decodeFields, encodeFields } from './criu-image.ts';

const text = (value: string): Uint8Array => new TextEncoder().encode(value);

const set = (id: bigint, members: Readonly<Record<string, string>>): Uint8Array =>
  encodeFields(
    new Map<number, Array<bigint | Uint8Array>>([
      [1, [id]],
      [
        2,
        Object.entries(members).map(([name, path]) =>
          encodeFields(
            new Map([
              [1, [text(name)]],
              [2, [text(path)]],
            ]),
          ),
        ),
      ],
    ]),
  );

const controller = (names: readonly string[], directories: readonly Uint8Array[] = []): Uint8Array =>
  encodeFields(
    new Map<number, Array<bigint | Uint8Array>>([
      [1, names.map(text)],
      [2, [...directories]],
      [3, [0n]],
    ]),
  );

function image(sets: readonly Uint8Array[], controllers: readonly Uint8Array[]): Uint8Array {
  const message = encodeFields(
    new Map([
      [1, [...sets]],
      [2, [...controllers]],
    ]),
  );
  const header = new DataView(new ArrayBuffer(12));
  header.setUint32(0, 0x54564319, true);
  header.setUint32(4, 0x59383330, true);
  header.setUint32(8, message.length, true);
  return Uint8Array.from([...new Uint8Array(header.buffer), ...message]);
}

interface Listed {
  readonly name: string;
  readonly below?: readonly Listed[];
}

/** Names of a controller, by commas, to its directories. */
function listedIn(bytes: Uint8Array): Record<string, Listed[]> {
  expect(new DataView(bytes.buffer, bytes.byteOffset).getUint32(8, true)).toBe(bytes.length - 12);
  const decode = (value: bigint | Uint8Array): ReadonlyMap<number, ReadonlyArray<bigint | Uint8Array>> =>
    (value instanceof Uint8Array ? decodeFields(value) : undefined) ?? new Map();
  const textOf = (value: bigint | Uint8Array | undefined): string =>
    value instanceof Uint8Array ? new TextDecoder().decode(value) : '';
  const directory = (value: bigint | Uint8Array): Listed => {
    const fields = decode(value);
    const below = (fields.get(2) ?? []).map(directory);
    return { name: textOf(fields.get(1)?.[0]), ...(below.length === 0 ? {} : { below }) };
  };
  return Object.fromEntries(
    (decode(bytes.subarray(12)).get(2) ?? []).map((one) => {
      const fields = decode(one);
      expect(fields.get(3)).toEqual([0n]);
      return [(fields.get(1) ?? []).map(textOf).join(','), (fields.get(2) ?? []).map(directory)];
    }),
  );
}

describe('withCgroupDirectories', () => {
  it('lists the cgroup of the processes under every hierarchy, the unified one beside v1 included', () => {
    const members = { '': '/web/c1', freezer: '/web/c1', 'cpu,cpuacct': '/web/c1', 'name=systemd': '/' };
    const hierarchies = [['cpu', 'cpuacct'], ['freezer'], ['pids'], ['name=systemd'], ['']];

    const listed = listedIn(
      withCgroupDirectories(
        image(
          [set(2n, members)],
          hierarchies.map((names) => controller(names)),
        ),
      ),
    );

    expect(listed).toEqual({
      'cpu,cpuacct': [{ name: 'web/c1' }],
      freezer: [{ name: 'web/c1' }],
      pids: [],
      'name=systemd': [{ name: '' }],
      '': [{ name: 'web/c1' }],
    });
  });

  it('nests what lies below the cgroup of the first process, and keeps names apart that begin alike', () => {
    const sets = ['/c1/init.scope', '/c1', '/c1/a/b', '/c10'].map((path, at) => set(BigInt(at + 2), { '': path }));

    const listed = listedIn(withCgroupDirectories(image(sets, [controller([''])])));

    expect(listed).toEqual({
      '': [{ name: 'c1', below: [{ name: 'a/b' }, { name: 'init.scope' }] }, { name: 'c10' }],
    });
  });

  it('leaves an image alone that lists directories, and what is no image', () => {
    const full = image([set(2n, { '': '/c1' })], [controller([''], [encodeFields(new Map([[1, [text('c1')]]]))])]);

    expect(withCgroupDirectories(full)).toBe(full);
    for (const bytes of [text('short'), text('long enough, but no image at all')]) {
      expect(withCgroupDirectories(bytes)).toBe(bytes);
    }
  });
});
