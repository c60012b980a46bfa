/* Which GPU stands in for which at a restore. */

/** UUIDs of the device at the dump and of the one that takes over. */
export interface GpuPair {
  readonly from: string;
  readonly to: string;
}
