/* Why a restore failed: what kept the images from CRIU, or a /dev/shm from the container, else CRIU's own error lines, else runc's. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { restoreErrorLines } from '../../native/criu/log.ts';
import { OWN_SHM_LOG } from './own-shm.ts';
import { SHOWN_IMAGES_LOG } from './shown-images.ts';

const MAX_LINES = 12;

/**
 * @param workDir CRIU's work directory of this restore
 * @param runcLog runc's log, text or JSON
 * @returns last error lines, in order; never empty
 */
export async function restoreErrors(workDir: string, runcLog: string | undefined): Promise<readonly string[]> {
  const shown = linesOf(join(workDir, SHOWN_IMAGES_LOG));
  if (shown.length > 0) {
    return [`the images cannot be shown to the root of the user namespace: ${shown.join('; ')}`];
  }
  const shm = linesOf(join(workDir, OWN_SHM_LOG));
  if (shm.length > 0) {
    return [`its /dev/shm cannot be made: ${shm.slice(-MAX_LINES).join('; ')}`];
  }
  const criu = await restoreErrorLines(join(workDir, 'restore.log'));
  if (criu.length > 0) {
    return criu;
  }
  const runc = (runcLog === undefined ? [] : linesOf(runcLog)).flatMap(errorOfLogLine).slice(-MAX_LINES);
  return runc.length > 0 ? runc : ['neither CRIU nor runc left an error line'];
}

/** None of a file that is not there. */
function linesOf(file: string): string[] {
  const text = existsSync(file) ? readFileSync(file, 'utf8') : '';
  return text.split('\n').filter((line) => line !== '');
}

function errorOfLogLine(line: string): readonly string[] {
  if (!line.startsWith('{')) {
    return line.includes('level=error') ? [line] : [];
  }
  try {
    const { level, msg } = JSON.parse(line) as { level?: unknown; msg?: unknown };
    return level === 'error' && typeof msg === 'string' ? [msg] : [];
  } catch {
    // A line cut off by a crash of runc says nothing.
    return [];
  }
}
