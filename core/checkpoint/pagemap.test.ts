import { describe, expect, it } from 'vitest';
import { isKybernateError } from '../errors.ts';
import { decodePagemap, isInPagesFile, PAGE_FLAGS } from './pagemap.ts';

/** pagemap-1.img of a busybox shell, dumped by CRIU 4.2.1. */
const BUSYBOX =
  '19435654254008560200000008010b0000000880a080021000200428010b000000088080f802100020042805' +
  '0b0000000880a0f9021000200628010b0000000880c0fa021000200628020c0000000880e0fcb90110002006' +
  '28040e0000000880e0e0a1ecf11f1000200428020e0000000880a096b2f6ff1f100020062802';

function fromHex(text: string): Uint8Array {
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}

/** One record from [field, value] pairs with values below 128. */
function record(...fields: Array<[number, number]>): number[] {
  const body = fields.flatMap(([field, value]) => [field << 3, value]);
  return [body.length, 0, 0, 0, ...body];
}

const MAGIC = [0x19, 0x43, 0x56, 0x54, 0x25, 0x40, 0x08, 0x56];

describe('decodePagemap', () => {
  it('reads a pagemap that CRIU 4.2.1 wrote', () => {
    const pagemap = decodePagemap(fromHex(BUSYBOX));

    expect(pagemap.pagesId).toBe(1);
    expect(pagemap.entries[0]).toEqual({ vaddr: 0x401000n, nrPages: 1, flags: 4 });
    expect(pagemap.entries.at(-1)).toMatchObject({ nrPages: 2, flags: 6 });
    expect(pagemap.entries.map((entry) => entry.nrPages)).toEqual([1, 5, 1, 2, 4, 2, 2]);
    // pages-1.img of the same dump has 69632 bytes
    expect(pagemap.entries.filter(isInPagesFile).reduce((sum, entry) => sum + entry.nrPages, 0) * 4096).toBe(69632);
  });

  it('refuses every truncation of it that cuts a record', () => {
    const whole = fromHex(BUSYBOX);
    let entriesBefore = -1;
    for (let length = 0; length < whole.length; length += 1) {
      try {
        // a cut between records is a shorter, well formed image: the size of pages-N.img tells
        const { entries } = decodePagemap(whole.subarray(0, length));
        expect(entries.length).toBe(entriesBefore + 1);
        entriesBefore = entries.length;
      } catch (error) {
        expect(isKybernateError(error, 'CheckpointCorrupt')).toBe(true);
      }
    }
    expect(entriesBefore).toBe(6);
  });

  it('takes the 64 bit page count before the 32 bit one', () => {
    const bytes = new Uint8Array([...MAGIC, ...record([1, 7]), ...record([1, 0], [2, 1], [4, 4], [5, 9])]);

    expect(decodePagemap(bytes).entries[0]?.nrPages).toBe(9);
  });

  it('reads entries without flags as CRIU does', () => {
    const bytes = new Uint8Array([
      ...MAGIC,
      ...record([1, 7]),
      ...record([1, 0], [2, 1]),
      ...record([1, 16], [2, 1], [3, 1]),
    ]);

    const [own, inherited] = decodePagemap(bytes).entries;

    expect(own?.flags).toBe(PAGE_FLAGS.present);
    expect(inherited?.flags).toBe(PAGE_FLAGS.parent);
    expect([own, inherited].map((entry) => entry !== undefined && isInPagesFile(entry))).toEqual([true, false]);
  });

  it('keeps all bits of an address above 2^53', () => {
    const address = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0xff, 0x01];
    const body = [1 << 3, ...address, 5 << 3, 1, 4 << 3, 4];
    const bytes = new Uint8Array([...MAGIC, ...record([1, 1]), body.length, 0, 0, 0, ...body]);

    expect(decodePagemap(bytes).entries[0]?.vaddr).toBe(0xff00000000000000n);
  });

  it('counts only pages that are present and not in the parent image', () => {
    const flags = [0, 1, 2, 4, 5, 6, 7];

    expect(flags.filter((flag) => isInPagesFile({ vaddr: 0n, nrPages: 1, flags: flag }))).toEqual([4, 6]);
  });

  it.each([
    ['an empty file', []],
    ['another image', [0x19, 0x43, 0x56, 0x54, 1, 2, 3, 4]],
    ['no head record', MAGIC],
    ['an entry without an address', [...MAGIC, ...record([1, 1]), ...record([2, 1])]],
    ['an unknown wire type', [...MAGIC, 2, 0, 0, 0, 0x0b, 0]],
    ['an endless integer', [...MAGIC, 12, 0, 0, 0, 8, ...Array<number>(11).fill(0xff)]],
  ])('refuses %s', (_, bytes) => {
    expect(() => decodePagemap(new Uint8Array(bytes))).toThrow(/pagemap image cannot be read/);
  });
});
