/* Sizes as people write them in settings and flags. */

const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
};

/**
 * @param text a number and a unit, `64GiB`, `1.5 TiB`, `500MB`; a bare number counts bytes
 * @returns whole bytes, or undefined when the text is no size
 */
export function parseByteSize(text: string): number | undefined {
  const [, number = '', unit = ''] = /^(\d+(?:\.\d+)?) ?([A-Za-z]*)$/.exec(text.trim()) ?? [];
  const factor = Object.hasOwn(UNITS, unit) ? UNITS[unit] : undefined;
  const bytes = factor === undefined || number === '' ? Number.NaN : Math.round(Number(number) * factor);
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}
