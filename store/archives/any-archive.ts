/* An archive of a checkpoint, of ours or of another engine: told by how it begins. */
import { mkdir } from 'node:fs/promises';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import { KybernateError } from '../../core/errors.ts';
import { type Room, roomIn } from '../room.ts';
import { importCheckpoint, type Imported, type ImportRequest } from '../import.ts';
import { type ForeignImport, importForeign } from './import-foreign.ts';
import { readImageArchive } from './oci-layout.ts';
import { limited, ofArchive, openPlain } from './plain.ts';

const HEADER_BYTES = 512;
/** Of a tar header: the name. */
const NAME_BYTES = 100;
/** Nothing else writes such a name first. */
const OURS = /^checkpoint-([^/]+)\/manifest\.json\0/;

export interface AnyImport extends ImportRequest {
  readonly foreign: Omit<ForeignImport, 'source' | 'form' | 'checkpointsDir' | 'op'>;
  /** called for an archive of another engine, which nobody has signed: throws where it must not be taken */
  readonly acceptForeign: (where: string) => void;
}

export interface AnyImported extends Imported {
  /** absent for an archive of ours */
  readonly origin?: NonNullable<Metadata['origin']>;
  readonly warnings: readonly string[];
}

/** Errors and what a crash leaves: as `importCheckpoint` and `importForeign`. */
export async function importArchive(request: AnyImport): Promise<AnyImported> {
  return importStream(request, 'archive');
}

/**
 * The archive in a checkpoint image of an OCI layout. What is not read of the layer, since the archive ends before, must
 * still be what the image's manifest says.
 */
export async function importImage(
  request: Omit<AnyImport, 'stream'>,
  { dir, tag }: { readonly dir: string; readonly tag?: string },
): Promise<AnyImported> {
  return importStream({ ...request, stream: readImageArchive(dir, tag) }, 'oci-image');
}

/** Nothing says how large an archive of another engine is before it has been read: what it writes is counted. */
async function roomFor({ checkpointsDir, minFreeBytes }: Omit<AnyImport, 'stream'>): Promise<Room> {
  await mkdir(checkpointsDir, { recursive: true, mode: 0o700 });
  return roomIn(checkpointsDir, minFreeBytes);
}

async function importStream(request: AnyImport, form: ForeignImport['form']): Promise<AnyImported> {
  const { acceptForeign, foreign, checkpointsDir, op } = request;
  const plain = await openPlain(request.stream);
  const { source } = plain;
  try {
    const own = OURS.exec(Buffer.from(await source.peek(NAME_BYTES)).toString('latin1', 0, NAME_BYTES));
    if (own !== null) {
      refuseOtherId(own[1] ?? '', foreign.checkpointId);
      return { ...(await importCheckpoint({ ...request, stream: source.remaining() })), warnings: [] };
    }
    if (form === 'archive' && !isTarHeader(await source.peek(HEADER_BYTES))) {
      throw notAnArchive();
    }
    acceptForeign(form === 'archive' ? 'an archive of another engine' : 'a checkpoint image');
    const room = await roomFor(request);
    const limits = { ...foreign.limits, room };
    return await importForeign({ ...foreign, limits, source: limited(plain, limits), form, checkpointsDir, op });
  } catch (error) {
    throw ofArchive(error);
  } finally {
    await source.close();
  }
}

/** The id is part of what was signed. @throws InvalidInput */
function refuseOtherId(id: string, wanted: string | undefined): void {
  if (wanted !== undefined && wanted !== id) {
    throw new KybernateError(
      'InvalidInput',
      `--id: the archive is of the checkpoint ${id}, which keeps its id (it is signed with it); only an archive of another ` +
        'engine is given one; nothing was imported',
    );
  }
}

/** The magic of every tar that engines write; of a file without it nothing is shown or unpacked. */
function isTarHeader(head: Uint8Array): boolean {
  return head.length === HEADER_BYTES && Buffer.from(head).toString('latin1', 257, 262) === 'ustar';
}

function notAnArchive(): KybernateError {
  return new KybernateError('CheckpointCorrupt', 'it is no archive of a checkpoint: it does not begin as one', {
    details: { remedy: 'give an archive of `kybernate export`, Podman, CRI-O or containerd; nothing was imported' },
  });
}
