/* Why a restore failed: CRIU's own error lines, else runc's. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { restoreErrorLines } from '../../native/criu/log.ts';

const MAX_LINES = 12;

/**
 * @param workDir CRIU's work directory of this restore
 * @param runcLog runc's log, text or JSON
 * @returns last error lines, in order; never empty
 */
export async function restoreErrors(workDir: string, runcLog: string | undefined): Promise<readonly string[]> {
  const criu = await restoreErrorLines(join(workDir, 'restore.log'));
  if (criu.length > 0) {
    return criu;
  }
  const text = runcLog !== undefined && existsSync(runcLog) ? readFileSync(runcLog, 'utf8') : '';
  const runc = text.split('\n').flatMap(errorOfLogLine).slice(-MAX_LINES);
  return runc.length > 0 ? runc : ['neither CRIU nor runc left an error line'];
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
