/* What the kernel tells every program at its start. Source: getauxval(3), include/uapi/linux/auxvec.h. */
import { readFileSync } from 'node:fs';

/** Bytes that a signal frame takes, the processor's whole state included; since Linux 5.14 on x86, 4.14 on arm64. */
export const AT_MINSIGSTKSZ = 51;

/** Pairs of 64-bit words, type and value; little endian on every supported machine. */
export function parseAuxiliary(bytes: Buffer, type: number): number | undefined {
  for (let at = 0; at + 16 <= bytes.length; at += 16) {
    if (bytes.readBigUInt64LE(at) === BigInt(type)) {
      return Number(bytes.readBigUInt64LE(at + 8));
    }
  }
  return undefined;
}

/** Of this process: the same for every one on the machine. */
export function auxiliaryValue(type: number): number | undefined {
  return parseAuxiliary(readFileSync('/proc/self/auxv'), type);
}
