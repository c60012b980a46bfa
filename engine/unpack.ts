/* How tar unpacks what a checkpoint has of files, and what its failure means. Node: modules only, for the wrapper. */
import { KybernateError } from '../core/errors.ts';
import type { RunResult } from '../native/run/run.ts';

/** Owners, modes, access lists and attributes as they were, for root. */
export const UNPACK_OPTIONS = [
  '--extract',
  '--numeric-owner',
  '--same-owner',
  '--same-permissions',
  '--acls',
  '--xattrs',
  '--xattrs-include=*',
] as const;

/** @returns DiskFull or RestoreFailed */
export function unpackError(result: RunResult, tar: string, dir: string): KybernateError {
  const text = saidBy(result);
  return new KybernateError(
    /No space left on device|Wrote only \d+ of \d+ bytes/.test(text) ? 'DiskFull' : 'RestoreFailed',
    `${tar} could not be unpacked into ${dir}: ${text}`,
  );
}

/** The end of what a program that failed has said, or why it did not start. */
export function saidBy(result: RunResult): string {
  return (result.startError ?? result.stderr.trim()).slice(-1000);
}
