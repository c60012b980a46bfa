import { statSync } from 'node:fs';
import type { ForeignSpecInput } from '../../core/oci/foreign-spec.ts';

/** What lies on this node where a specification of another engine wants to mount from. */
export const sourceKind: NonNullable<ForeignSpecInput['sourceKind']> = (path) => {
  try {
    const stats = statSync(path);
    return stats.isDirectory() ? 'directory' : stats.isFile() ? 'file' : 'other';
  } catch {
    // ENOENT and its like: whatever keeps us from seeing it keeps a runtime from mounting it.
    return undefined;
  }
};
