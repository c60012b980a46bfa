/*
 * CRIU's cgroup.img with the directories that a restore by others needs. Our dumps leave cgroups alone: the image has the
 * paths of the processes and no directory. Other engines let CRIU move processes there, below a new root that runc names;
 * it rewrites and makes only what is listed as a directory.
 *
 *   CgroupEntry { 1: sets of { 1: id, 2: members of { 1: controller, 2: path } },
 *                 2: controllers of { 1: names, 2: directories of { 1: path } } }
 *   Source: criu, images/cgroup.proto and criu/cgroup.c (rewrite_cgroup_roots).
 */
import { decodeFields, type Fields } from './criu-image.ts';

const HEADER_BYTES = 12;

/** The same bytes where there is nothing to add, or where it is no such image. */
export function withCgroupDirectories(image: Uint8Array): Uint8Array {
  const entry = image.length > HEADER_BYTES ? decodeFields(image.subarray(HEADER_BYTES)) : undefined;
  const listed = (entry?.get(2) ?? []).flatMap((one) => (one instanceof Uint8Array ? (decodeFields(one) ?? []) : []));
  if (entry === undefined || listed.some((controller) => (controller.get(2) ?? []).length > 0)) {
    return image;
  }
  const paths = new Map<string, Set<string>>();
  for (const member of (entry.get(1) ?? []).flatMap((set) => messagesIn(set, 2))) {
    const [name, path] = [textIn(member, 1), textIn(member, 2)];
    if (name !== undefined && name !== '' && path !== undefined && path !== '/') {
      paths.set(name, (paths.get(name) ?? new Set()).add(path));
    }
  }
  const controllers = [...paths].map(([name, dirs]) =>
    encode(
      new Map([
        [1, [new TextEncoder().encode(name)]],
        [2, [...dirs].map(directory)],
      ]),
    ),
  );
  const sets = (entry.get(1) ?? []).map(withoutUnified);
  const message = encode(new Map([...entry, [1, sets], [2, controllers]]));
  const header = Uint8Array.from(image.subarray(0, HEADER_BYTES));
  new DataView(header.buffer).setUint32(8, message.length, true);
  return Uint8Array.from([...header, ...message]);
}

/** Beside hierarchies of cgroup v1 (systemd's hybrid form) runc names no root for the unified one. */
function withoutUnified(set: bigint | Uint8Array): bigint | Uint8Array {
  const fields = set instanceof Uint8Array ? decodeFields(set) : undefined;
  const named = (fields?.get(2) ?? []).filter((member) => {
    const name = member instanceof Uint8Array ? decodeFields(member)?.get(1)?.[0] : undefined;
    return name instanceof Uint8Array && name.length > 0;
  });
  return fields === undefined || named.length === 0 ? set : encode(new Map([...fields, [2, named]]));
}

function directory(path: string): Uint8Array {
  return encode(new Map([[1, [new TextEncoder().encode(path)]]]));
}

function messagesIn(value: bigint | Uint8Array, field: number): Fields[] {
  const fields = value instanceof Uint8Array ? decodeFields(value) : undefined;
  return (fields?.get(field) ?? []).flatMap((one) => (one instanceof Uint8Array ? (decodeFields(one) ?? []) : []));
}

function textIn(fields: Fields, number: number): string | undefined {
  const value = fields.get(number)?.[0];
  return value instanceof Uint8Array ? new TextDecoder().decode(value) : undefined;
}

/** Only integers, strings and messages, which is all that these have. */
function encode(fields: Fields): Uint8Array {
  const bytes: number[] = [];
  for (const [number, values] of fields) {
    for (const value of values) {
      if (typeof value === 'bigint') {
        bytes.push(...varint(BigInt(number) << 3n), ...varint(value));
      } else {
        bytes.push(...varint((BigInt(number) << 3n) | 2n), ...varint(BigInt(value.length)), ...value);
      }
    }
  }
  return Uint8Array.from(bytes);
}

function varint(value: bigint): number[] {
  const bytes: number[] = [];
  for (let left = value; ; left >>= 7n) {
    const more = left > 127n;
    bytes.push(Number(left & 127n) | (more ? 128 : 0));
    if (!more) {
      return bytes;
    }
  }
}
