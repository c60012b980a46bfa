/* UUIDs of devices: 16 bytes in cuda.h, `GPU-8-4-4-4-12` in NVML, in CDI names and in ours. */
import { KybernateError } from '../../core/errors.ts';

const PATTERN = /^GPU-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** @throws InvalidInput for anything but `GPU-8-4-4-4-12`; a MIG device has no such name */
export function uuidBytes(uuid: string): Uint8Array {
  if (!PATTERN.test(uuid)) {
    throw new KybernateError('InvalidInput', `${JSON.stringify(uuid)} is no GPU UUID (GPU-8-4-4-4-12)`);
  }
  return Uint8Array.from(Buffer.from(uuid.slice(4).replaceAll('-', ''), 'hex'));
}

export function uuidText(bytes: Uint8Array): string {
  const hex = Buffer.from(bytes).toString('hex');
  return `GPU-${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20, 32)}`;
}
