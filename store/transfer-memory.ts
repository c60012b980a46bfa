/*
 * The memory of transfers, for all of a process together: packs that are filled and sent, reads that are decoded. Who
 * wants some waits for its turn; whoever has some must be able to end without more, so nobody waits for ever. It does not
 * count the buffer of each chunk thread and of each job under way (chunk-workers.ts), 1 MiB each.
 */
import { Gate } from './gate.ts';

/** Two packs, or four reads of what does not shrink with their chunks. */
const TOTAL_BYTES = 52 * 2 ** 20;

const inUse = new Gate(TOTAL_BYTES);
const spares: Array<Uint8Array<ArrayBuffer>> = [];

export interface HeldMemory {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** to be called once; nobody may look at the bytes afterwards */
  readonly release: () => void;
}

/** Memory with anything in it. */
export async function holdMemory(length: number, signal: AbortSignal): Promise<HeldMemory> {
  const leave = await inUse.enter(length, signal);
  const spare = spares.findIndex((bytes) => bytes.length === length);
  const bytes = spares.splice(spare, spare === -1 ? 0 : 1)[0] ?? Buffer.allocUnsafeSlow(length);
  return {
    bytes,
    release() {
      spares.push(bytes);
      leave();
      freeSpares();
    },
  };
}

/** Waits for so much, and counts it until the function it returns is called. */
export function countMemory(length: number, signal: AbortSignal): Promise<() => void> {
  return inUse.enter(length, signal);
}

/** At once: left to the collector, the buffers of the next transfer would come on top of these. */
function freeSpares(): void {
  if (inUse.isEmpty) {
    for (const { buffer } of spares.splice(0)) {
      buffer.transfer(0);
    }
  }
}
