import protobuf from 'protobufjs/minimal.js';
import { expect, test } from 'vitest';
import { expiredTimers } from './timers.ts';

/** A files.img of timerfd entries: [ticks, vsec, vnsec, isec, insec]. */
function image(...timers: readonly number[][]): Buffer {
  const head = Buffer.alloc(8);
  head.writeUInt32LE(0x54564319, 0);
  head.writeUInt32LE(0x56303138, 4);
  const records = timers.map(([ticks = 0, vsec = 0, vnsec = 0, isec = 0, insec = 0], index) => {
    const timer = protobuf.Writer.create()
      .uint32(8)
      .uint32(index)
      .uint32(16)
      .uint32(2048)
      .uint32(26)
      .bytes(new Uint8Array(4));
    timer.uint32(32).uint32(1).uint32(40).uint64(ticks).uint32(48).uint32(0);
    timer.uint32(56).uint64(vsec).uint32(64).uint64(vnsec).uint32(72).uint64(isec).uint32(80).uint64(insec);
    const entry = protobuf.Writer.create()
      .uint32(8)
      .uint32(17)
      .uint32(16)
      .uint32(index)
      .uint32(98)
      .bytes(timer.finish())
      .finish();
    const length = Buffer.alloc(4);
    length.writeUInt32LE(entry.length);
    return Buffer.concat([length, entry]);
  });
  return Buffer.concat([head, ...records]);
}

test('an expired periodic timer is found, and one changed byte gives it a nanosecond', () => {
  const before = image([1, 0, 0, 0, 20_000_000], [0, 1, 5, 1, 0]);

  const places = expiredTimers(before);
  places.forEach((place) => before.writeUInt8(1, place));

  expect(places).toHaveLength(1);
  expect(before.equals(image([1, 0, 1, 0, 20_000_000], [0, 1, 5, 1, 0]))).toBe(true);
});

test('a running, a disarmed and a one-shot timer are left alone', () => {
  expect(expiredTimers(image([1, 0, 7, 0, 9], [0, 0, 0, 1, 0], [1, 0, 0, 0, 0]))).toEqual([]);
});

test('an image of another format is left alone', () => {
  expect(expiredTimers(Buffer.from('not an image of CRIU'))).toEqual([]);
});
