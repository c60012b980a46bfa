/*
 * A repair of CRIU's images. A periodic timerfd that has expired and was not read yet has no time left (it_value 0):
 * the kernel starts its next period when it is read. CRIU (4.2.1, pie/restorer.c, timerfd_arm) gives that 0 to
 * timerfd_settime, which means "disarm": after the restore the timer never fires again. With one nanosecond instead it
 * fires at once and goes on. The value is one byte of a varint in both cases, so it is changed in place.
 *
 * files.img: two 32-bit magics, then records of a 32-bit length and a file_entry (images/fdinfo.proto); its field 12 is
 * a timerfd_entry (images/timerfd.proto: ticks 5, vsec 7, vnsec 8, isec 9, insec 10).
 */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import protobuf from 'protobufjs/minimal.js';

const IMAGE = 'files.img';
const COMMON_MAGIC = 0x54564319;
const TIMERFD_FIELD = 12;
const FIELD = { ticks: 5, vsec: 7, vnsec: 8, isec: 9, insec: 10 } as const;
const VARINT = 0;
const LENGTH_DELIMITED = 2;

/** @returns how many timers were repaired; an image of another format is left alone */
export async function rearmExpiredTimers(imageDir: string): Promise<number> {
  const file = join(imageDir, IMAGE);
  const image = await readFile(file).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') {
      return undefined;
    }
    throw error;
  });
  if (image === undefined) {
    return 0;
  }
  const places = expiredTimers(image);
  if (places.length > 0) {
    places.forEach((place) => image.writeUInt8(1, place));
    await writeFile(file, image);
  }
  return places.length;
}

/** Offsets of the byte that holds `vnsec` of every periodic timer that has expired. */
export function expiredTimers(image: Buffer): number[] {
  if (image.length < 8 || image.readUInt32LE(0) !== COMMON_MAGIC) {
    return [];
  }
  const places: number[] = [];
  for (let at = 8; at + 4 <= image.length;) {
    const length = image.readUInt32LE(at);
    const record = image.subarray(at + 4, at + 4 + length);
    const entry = timerfdEntry(record);
    const place = entry === undefined ? undefined : expiredAt(record.subarray(entry.start, entry.end));
    if (entry !== undefined && place !== undefined) {
      places.push(at + 4 + entry.start + place);
    }
    at += 4 + length;
  }
  return places;
}

function timerfdEntry(record: Buffer): { start: number; end: number } | undefined {
  const reader = protobuf.Reader.create(record);
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    if (tag >>> 3 === TIMERFD_FIELD && (tag & 7) === LENGTH_DELIMITED) {
      const length = reader.uint32();
      return { start: reader.pos, end: reader.pos + length };
    }
    reader.skipType(tag & 7);
  }
  return undefined;
}

/** @returns offset of the byte of `vnsec` when the timer is periodic, has ticks and no time left */
function expiredAt(entry: Buffer): number | undefined {
  const reader = protobuf.Reader.create(entry);
  const values = new Map<number, number>();
  let place: number | undefined;
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    if ((tag & 7) === VARINT) {
      place = tag >>> 3 === FIELD.vnsec ? reader.pos : place;
      values.set(tag >>> 3, Number(reader.uint64()));
    } else {
      reader.skipType(tag & 7);
    }
  }
  const value = (field: number): number => values.get(field) ?? 0;
  const periodic = value(FIELD.isec) > 0 || value(FIELD.insec) > 0;
  const noTimeLeft = value(FIELD.vsec) === 0 && value(FIELD.vnsec) === 0;
  return periodic && noTimeLeft && value(FIELD.ticks) > 0 ? place : undefined;
}
