/*
 * Limits of transfers from a file that is read again when it changes, so that they can be changed while transfers run:
 *
 *   {"uploadBytesPerSecond": 50000000, "downloadBytesPerSecond": 200000000, "transfers": 8}
 *
 * What is not there is not limited, and so is everything while the file is not there.
 */
import { unwatchFile, watchFile } from 'node:fs';
import { readFile } from 'node:fs/promises';
import * as z from 'zod';
import { messageOf } from '../../core/errors.ts';
import type { Logger } from '../../core/op.ts';
import { errnoOf } from '../files.ts';
import { Gate } from '../gate.ts';
import { RateLimiter, type Limits } from './rate-limit.ts';

const POLL_MS = 1000;

const content = z.strictObject({
  uploadBytesPerSecond: z.number().positive().optional(),
  downloadBytesPerSecond: z.number().positive().optional(),
  transfers: z.int().positive().optional(),
});

export interface FollowedLimits extends Limits {
  /** Ends the following; the limits stay as they are. */
  stop(): void;
}

/** A file that makes no sense is logged and changes nothing. */
export async function followLimits(path: string, log: Logger): Promise<FollowedLimits> {
  const limits = { up: new RateLimiter(), down: new RateLimiter(), transfers: new Gate(Number.POSITIVE_INFINITY) };
  const apply = async (): Promise<void> => {
    try {
      const wanted = content.parse(JSON.parse(await readOrNothing(path)));
      limits.up.setRate(wanted.uploadBytesPerSecond);
      limits.down.setRate(wanted.downloadBytesPerSecond);
      limits.transfers.setLimit(wanted.transfers ?? Number.POSITIVE_INFINITY);
      log.info({ path, ...wanted }, 'limits of transfers');
    } catch (error) {
      // Whatever is wrong with the file, transfers go on as they do; whoever changed it looks into the log.
      log.error({ path, reason: messageOf(error) }, 'limits of transfers not understood');
    }
  };
  await apply();
  const onChange = (): void => void apply();
  watchFile(path, { interval: POLL_MS, persistent: false }, onChange);
  return { ...limits, stop: () => unwatchFile(path, onChange) };
}

async function readOrNothing(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') {
      return '{}';
    }
    throw error;
  }
}
