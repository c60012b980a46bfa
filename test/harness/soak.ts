/* Repetitions: a hundredth of the full number in `make test`, all of them in `make soak`. */

const SHARE = 100;

export const SOAK = process.env['KYBERNATE_SOAK'] === '1';

/** @param full repetitions of `make soak`; at least one is run */
export function times(full: number): number {
  return SOAK ? full : Math.max(1, Math.ceil(full / SHARE));
}
