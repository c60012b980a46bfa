/* Names of members of a tar archive: byte strings, one character a byte. */

/** Deeper than anybody nests; every directory on the way is looked at for every member. */
const MAX_PARTS = 256;

/**
 * What is wrong with a name as the place of a file below a directory; undefined for a clean one.
 * @param name as of a `TarMember`
 */
export function nameProblem(name: string): string | undefined {
  if (name.startsWith('/')) {
    return 'is absolute';
  }
  const parts = name.split('/');
  if (parts.some((part) => part === '' || part === '.' || part === '..')) {
    return 'leads out of the archive, or has an empty or "." part';
  }
  if (name.includes('\0')) {
    return 'has a zero in it';
  }
  if (parts.length > MAX_PARTS) {
    return `has more than ${MAX_PARTS} parts`;
  }
  return parts.some((part) => part.length > 255) ? 'has a part of more than 255 bytes' : undefined;
}

/** Without leading `./` and trailing `/`; empty for the root itself, `./` or `/`. */
export function cleanName(name: string): string {
  return name
    .replace(/^(?:\.\/+)+/, '')
    .replace(/\/+$/, (slashes) => (slashes.length === name.length ? '/' : ''))
    .replace(/^[./]$/, '');
}
