/* Durations and sizes as people write and read them. Everything else in the code is milliseconds and bytes. */

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };
const DURATION_PATTERN = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/;

/**
 * @param text a number and a unit: `500ms`, `60s`, `1.5m`, `2h`, `1d`; a bare number is refused, since its unit would
 *   be a guess
 * @returns whole milliseconds, or undefined when the text is no duration
 */
export function parseDuration(text: string): number | undefined {
  const match = DURATION_PATTERN.exec(text.trim());
  const factor = UNIT_MS[match?.[2] ?? ''];
  return match === null || factor === undefined ? undefined : Math.round(Number(match[1]) * factor);
}

/** `87 ms`, `1.25 s`, `3 min 04 s`, `2 h 05 min`: about three digits, the unit fits the size. */
export function formatDuration(ms: number): string {
  if (ms < 999.5) {
    return `${String(Math.round(ms))} ms`;
  }
  if (ms < 59_995) {
    return `${(ms / 1000).toFixed(ms < 9_995 ? 2 : 1)} s`;
  }
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) {
    return `${String(Math.floor(seconds / 60))} min ${twoDigits(seconds % 60)} s`;
  }
  const minutes = Math.round(seconds / 60);
  return `${String(Math.floor(minutes / 60))} h ${twoDigits(minutes % 60)} min`;
}

/** `40 s`, `12 min`, `5 h`, `3 d`: how long ago, for a list; never negative. */
export function formatAge(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  const units: ReadonlyArray<readonly [seconds: number, unit: string]> = [
    [2 * 86_400, 'd'],
    [2 * 3600, 'h'],
    [2 * 60, 'min'],
  ];
  const found = units.find(([from]) => seconds >= from);
  return found === undefined ? `${String(seconds)} s` : `${String(Math.floor((seconds * 2) / found[0]))} ${found[1]}`;
}

/** `512 B`, `4.0 KiB`, `13.2 MiB`, `1.50 GiB`: binary units, as the store and CRIU count. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1023.95 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  if (unit === 0) {
    return `${String(Math.round(value))} B`;
  }
  return `${value.toFixed(unit >= 3 ? 2 : 1)} ${units[unit] ?? ''}`;
}

export function formatRate(bytesPerSecond: number): string {
  return `${formatBytes(bytesPerSecond)}/s`;
}

/** `2026-03-01 09:30:12` in UTC, or the text itself when it is no time. */
export function formatTime(iso: string): string {
  const time = Date.parse(iso);
  return Number.isNaN(time) ? iso : new Date(time).toISOString().slice(0, 19).replace('T', ' ');
}

function twoDigits(value: number): string {
  return String(value).padStart(2, '0');
}
