/* How much an archive of unknown origin may ask for. Nothing of it is believed before it is counted. */
import { KybernateError } from '../../core/errors.ts';
import type { Room } from '../room.ts';

export interface ArchiveLimits {
  /** of the archive when it is unpacked, headers included */
  readonly maxBytes: number;
  /** files and directories, those inside its layer included */
  readonly maxFiles: number;
  /** unpacked bytes for one packed byte, beyond the first 64 MiB */
  readonly maxRatio: number;
  /** device nodes in the layer: an archive needs nobody's permission to name one */
  readonly allowDevices: boolean;
  /** of the disk that it is unpacked to; absent: nobody looks before it is full */
  readonly room?: Room;
}

export const DEFAULT_LIMITS: ArchiveLimits = {
  maxBytes: 2 ** 40,
  maxFiles: 500_000,
  maxRatio: 1000,
  allowDevices: false,
};

/** Every archive may unpack to this much, however small it is. */
export const RATIO_FREE_BYTES = 64 * 2 ** 20;

/** All names together: they are kept in memory. Half a kilobyte for each file of the most that there may be. */
const MAX_NAME_BYTES = 2 ** 28;

/** Counts the files of one archive, and their names. */
export class FileBudget {
  readonly #max: number;
  #seen = 0;
  #nameBytes = 0;

  constructor({ maxFiles }: Pick<ArchiveLimits, 'maxFiles'>) {
    this.#max = maxFiles;
  }

  /** @param name byte string @throws CheckpointCorrupt */
  take(name: string): void {
    this.#seen += 1;
    this.#nameBytes += name.length;
    if (this.#nameBytes > MAX_NAME_BYTES) {
      throw refused(`the names of its files have more than ${MAX_NAME_BYTES} bytes`);
    }
    if (this.#seen > this.#max) {
      throw refused(`it has more than ${this.#max} files (--max-files)`);
    }
  }
}

/** @param why begins in the middle of a sentence */
export function refused(why: string, details: Readonly<Record<string, unknown>> = {}): KybernateError {
  return new KybernateError('CheckpointCorrupt', `the archive was refused: ${why}; nothing of it was kept`, {
    details: { ...details, remedy: 'export it again, or raise the limit that the message names' },
  });
}

/** For messages: bytes as text, cut. */
export function shown(name: string): string {
  const text = Buffer.from(name, 'latin1').toString('utf8');
  return JSON.stringify(text.length > 200 ? `${text.slice(0, 200)}…` : text);
}
