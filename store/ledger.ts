/*
 * upload.ledger in a checkpoint directory: what the attempts of an upload have sent, and at the end the packs that the
 * manifest will name. One JSON object a line. It is not needed to resume (the store knows its packs), only to count over
 * attempts and to hand the packs to the publication.
 */
import { appendFile, readFile } from 'node:fs/promises';
import * as z from 'zod';
import { keyId } from '../core/checkpoint/encryption.ts';
import { packId } from '../core/checkpoint/manifest.ts';
import { errnoOf, mapDiskFull, writeFileDurably } from './files.ts';

const line = z.union([
  z.strictObject({ store: z.string(), merkleRoot: z.string() }),
  z.strictObject({ sentBytes: z.number(), newChunks: z.number() }),
  z.strictObject({ packs: z.array(z.tuple([packId, z.number()])), dataKeys: z.array(keyId).optional() }),
]);
type Line = z.output<typeof line>;

export type PackList = ReadonlyArray<readonly [id: string, bytes: number]>;

export interface Sent {
  readonly sentBytes: number;
  readonly newChunks: number;
}

export interface Ledger {
  /** sum over all attempts so far */
  readonly sent: Sent;
  /** all packs of the checkpoint; absent while the upload is not complete */
  readonly packs?: PackList;
  /** of these packs, where they are encrypted */
  readonly dataKeys?: readonly string[];
}

/** Which upload a ledger is about: one of another store or other content counts as empty. */
export interface LedgerSubject {
  readonly store: string;
  readonly merkleRoot: string;
}

export async function readLedger(path: string, subject: LedgerSubject): Promise<Ledger> {
  const lines = await readLines(path);
  const head = lines[0];
  if (head === undefined || !('store' in head)) {
    return { sent: { sentBytes: 0, newChunks: 0 } };
  }
  if (head.store !== subject.store || head.merkleRoot !== subject.merkleRoot) {
    return { sent: { sentBytes: 0, newChunks: 0 } };
  }
  const sent = lines
    .filter((entry) => 'sentBytes' in entry)
    .reduce(
      (sum, entry) => ({ sentBytes: sum.sentBytes + entry.sentBytes, newChunks: sum.newChunks + entry.newChunks }),
      { sentBytes: 0, newChunks: 0 },
    );
  const last = lines.findLast((entry) => 'packs' in entry);
  if (last === undefined) {
    return { sent };
  }
  const { packs, dataKeys } = last;
  return { sent, packs, ...(dataKeys === undefined ? {} : { dataKeys }) };
}

/** Begins an attempt: the ledger with the sum of earlier ones, without a pack list, whole again if it was cut off. */
export async function beginLedger(path: string, subject: LedgerSubject, sent: Sent): Promise<void> {
  await write(path, () => writeFileDurably(path, encode([{ ...subject }, { ...sent }])));
}

export async function noteSent(path: string, sent: Sent): Promise<void> {
  await write(path, () => appendFile(path, encode([{ ...sent }])));
}

/** Ends an upload. */
export async function completeLedger(
  path: string,
  subject: LedgerSubject,
  { sent, packs, dataKeys }: Ledger & { readonly packs: PackList },
): Promise<void> {
  const pairs = packs.map(([id, bytes]): [string, number] => [id, bytes]);
  const last = { packs: pairs, ...(dataKeys === undefined ? {} : { dataKeys: [...dataKeys] }) };
  await write(path, () => writeFileDurably(path, encode([{ ...subject }, { ...sent }, last])));
}

function encode(lines: readonly Line[]): string {
  return lines.map((entry) => `${JSON.stringify(entry)}\n`).join('');
}

/** The lines up to the first that is cut off. */
async function readLines(path: string): Promise<Line[]> {
  const lines: Line[] = [];
  for (const text of (await readText(path)).split('\n')) {
    const parsed = line.safeParse(tryJson(text));
    if (!parsed.success) {
      break;
    }
    lines.push(parsed.data);
  }
  return lines;
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') {
      return '';
    }
    throw error;
  }
}

function tryJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // Only a SyntaxError can arrive: the line was cut off by a crash.
    return undefined;
  }
}

async function write(path: string, act: () => Promise<void>): Promise<void> {
  try {
    await act();
  } catch (error) {
    throw mapDiskFull(error, path);
  }
}
