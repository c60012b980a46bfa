import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';

/** Longer than any upload may take. */
const KEEP_MS = 8 * 86_400_000;

/** Removes the ledgers of uploads that nobody went on with: they count what was sent, and nothing else needs them. */
export async function forgetLedgers(dir: string): Promise<void> {
  for (const name of await readdir(dir)) {
    const path = join(dir, name);
    if ((await stat(path)).mtimeMs < Date.now() - KEEP_MS) {
      await rm(path, { force: true });
    }
  }
}
