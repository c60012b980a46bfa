/* Versions as programs print them: `1.5.1`, `v2.4.2+unknown`, `Version: 4.2.1`, `go1.26.8`. */

import { compareVersions } from '../../native/criu/version.ts';

/** The first dotted number of a text, or undefined. */
export function findVersion(text: string): string | undefined {
  return /\d+\.\d+(?:\.\d+)*/.exec(text)?.[0];
}

export function isAtLeast(version: string, minimum: string): boolean {
  return compareVersions(version, minimum) >= 0;
}
