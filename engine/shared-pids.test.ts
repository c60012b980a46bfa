import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { encodeFields, type Fields } from '../core/checkpoint/criu-image.ts';
import type { ContainerFacts } from './container-facts.ts';
import { orphanRefusals, sharedIds } from './shared-pids.ts';

const JOINED = { linux: { namespaces: [{ type: 'pid', path: '/proc/7/ns/pid' }] } };
const OWN = { linux: { namespaces: [{ type: 'pid' }] } };

let dir: string;
beforeEach(() => (dir = mkdtempSync(join(tmpdir(), 'kybernate-pids-'))));
afterEach(() => rmSync(dir, { recursive: true }));

/** This process stands in for the container's first, and what started it for the pod's pause. */
function factsOf(parentHostPid: number, more: object = {}): Pick<ContainerFacts, 'processes' | 'initHostPid'> {
  const init = { hostPid: process.pid, command: 'node', entered: false, state: 'S', parentHostPid: 1 };
  const other = { hostPid: 99, command: 'worker', entered: true, state: 'S', parentHostPid, ...more };
  return { initHostPid: process.pid, processes: [init, other] } as unknown as ContainerFacts;
}

test("a process that has gone to another container's first one is refused, since CRIU would leave it out", () => {
  expect(orphanRefusals(factsOf(process.ppid), JOINED)).toEqual([
    expect.stringContaining(`process 99 (worker) has lost its parent and belongs to process ${process.ppid}`),
  ]);
});

test.each<[string, ReturnType<typeof factsOf>, object]>([
  ['in a pid namespace of its own', factsOf(process.ppid), OWN],
  ['that came in by exec, from outside', factsOf(0x7fffffff), JOINED],
  ['that such a one has started', factsOf(process.pid), JOINED],
  ['that has ended', factsOf(process.ppid, { state: 'Z' }), JOINED],
])('a process %s is no reason', (_which, facts, spec) => {
  expect(orphanRefusals(facts, spec)).toEqual([]);
});

test('what a restore takes in a shared pid namespace is read from the images: processes, threads, groups, sessions', async () => {
  const header = Buffer.alloc(8);
  header.writeUInt32LE(0x54564319, 0);
  header.writeUInt32LE(0x50273030, 4);
  const entries: Fields[] = [
    new Map([
      [1, [7n]],
      [2, [0n]],
      [3, [7n]],
      [4, [7n]],
      [5, [7n, 9n]],
    ]),
    new Map([
      [1, [12n]],
      [2, [7n]],
      [3, [11n]],
      [4, [7n]],
      [5, [12n]],
    ]),
  ];
  const records = entries.map((fields) => {
    const bytes = encodeFields(fields);
    const length = Buffer.alloc(4);
    length.writeUInt32LE(bytes.length);
    return Buffer.concat([length, bytes]);
  });
  const image = join(dir, 'pstree.img');
  writeFileSync(image, Buffer.concat([header, ...records]));

  expect(await sharedIds(JOINED, image)).toEqual([7, 9, 11, 12]);
  expect(await sharedIds(OWN, image)).toBeUndefined();
});
