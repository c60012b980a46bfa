/* Versions as programs print them: `1.5.1`, `v2.4.2+unknown`, `Version: 4.2.1`, `go1.26.8`. */

/** The first dotted number of a text, or undefined. */
export function findVersion(text: string): string | undefined {
  return /\d+\.\d+(?:\.\d+)*/.exec(text)?.[0];
}

/** Negative, zero or positive, field by field; a missing field is 0, so that 4.2 equals 4.2.0. */
export function compareVersions(left: string, right: string): number {
  const a = left.split('.').map(Number);
  const b = right.split('.').map(Number);
  for (let index = 0; index < Math.max(a.length, b.length); index += 1) {
    const difference = (a[index] ?? 0) - (b[index] ?? 0);
    if (difference !== 0) {
      return difference;
    }
  }
  return 0;
}

export function isAtLeast(version: string, minimum: string): boolean {
  return compareVersions(version, minimum) >= 0;
}
