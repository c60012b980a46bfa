/*
 * The process that `kybernate gpu test` saves and restores: holds VRAM with a known content. Speaks JSON lines: says
 * `{"ready":...}` when it holds the memory, then answers each line of standard input by checking what it holds. A process
 * cannot be its own: the driver's calls are made by another one.
 *
 *   node gpu-test-child.ts <libcuda> <device uuid> <bytes>
 */
import { createInterface } from 'node:readline';
import { messageOf } from '../core/errors.ts';
import { openCudaMachine, type CudaMachine, type CudaMemory } from '../native/cuda/memory.ts';

const CHUNK_BYTES = 4 * 1024 * 1024;

/** Bytes that differ from chunk to chunk and within one, so that a swapped, shifted or zeroed page is seen. */
function patternOf(chunk: number, bytes: number): Uint8Array {
  const words = new Uint32Array(Math.ceil(bytes / 4));
  // xorshift32: cheap, and no word repeats within a chunk.
  let word = (chunk + 1) * 0x9e3779b1;
  for (let index = 0; index < words.length; index += 1) {
    word ^= word << 13;
    word ^= word >>> 17;
    word ^= word << 5;
    words[index] = word;
  }
  return new Uint8Array(words.buffer, 0, bytes);
}

function eachChunk(bytes: number, visit: (offset: number, expected: Uint8Array) => boolean): void {
  for (let offset = 0; offset < bytes; offset += CHUNK_BYTES) {
    if (!visit(offset, patternOf(offset / CHUNK_BYTES, Math.min(CHUNK_BYTES, bytes - offset)))) {
      return;
    }
  }
}

/** @returns offset of the first byte that is wrong */
function firstWrong(machine: CudaMachine, memory: CudaMemory): number | undefined {
  let wrong: number | undefined;
  const found = new Uint8Array(CHUNK_BYTES);
  eachChunk(memory.bytes, (offset, expected) => {
    const part = found.subarray(0, expected.length);
    machine.read(memory, offset, part);
    if (Buffer.compare(part, expected) !== 0) {
      wrong = offset + part.findIndex((byte, index) => byte !== expected[index]);
    }
    return wrong === undefined;
  });
  return wrong;
}

function say(line: Readonly<Record<string, unknown>>): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

function main([library = '', uuid = '', bytes = '0']: readonly string[]): void {
  const machine = openCudaMachine(library);
  const device = machine.devices.find((one) => one.uuid === uuid);
  if (device === undefined) {
    throw new Error(`CUDA does not show ${uuid} to this process: CUDA_VISIBLE_DEVICES may hide it`);
  }
  machine.useDevice(device.ordinal);
  const memory = machine.allocate(Number(bytes));
  eachChunk(memory.bytes, (offset, expected) => {
    machine.write(memory, offset, expected);
    return true;
  });
  say({ ready: device });
  const lines = createInterface({ input: process.stdin });
  lines.on('line', () => {
    const wrong = firstWrong(machine, memory);
    say(wrong === undefined ? { same: true } : { same: false, offset: wrong });
  });
  // The parent is gone. Not `exit`: the driver's own clean-up would wait for ever in a process that is locked.
  lines.on('close', () => process.kill(process.pid, 'SIGKILL'));
}

try {
  main(process.argv.slice(2));
} catch (error) {
  say({ error: messageOf(error), ...(error instanceof Error && 'code' in error ? { code: error.code } : {}) });
  process.exitCode = 1;
}
