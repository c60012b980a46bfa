/*
 * An archive of Podman, CRI-O or containerd becomes a checkpoint directory. Nobody vouches for a byte of it, so all of it
 * is unpacked under limits into a directory that is none yet; then its specification is cleaned, its layer is finished,
 * every file is described, and the directory gets its name last.
 */
import { createReadStream } from 'node:fs';
import { mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import {
  checkpointDirName,
  CRIU_DIR,
  FS_FILES,
  METADATA_FILE,
  ORIGIN_DIR,
  OWN_FILES,
} from '../../core/checkpoint/file-names.ts';
import { coreFacts, decodeImage, processTree, rootMode } from '../../core/checkpoint/criu-image.ts';
import { encodeManifest } from '../../core/checkpoint/manifest.ts';
import { cleanSpec, type ForeignSpec, type ForeignSpecInput } from '../../core/oci/foreign-spec.ts';
import type { OciSpec } from '../../core/oci/spec.ts';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import { parseCheckpointId } from '../../core/ids.ts';
import type { Op } from '../../core/op.ts';
import type { ByteSource } from '../byte-source.ts';
import { describeCheckpoint } from '../describe.ts';
import { mapDiskFull, syncDir, writeSynced } from '../files.ts';
import { isThere, removeLeftovers, renameIntoPlace, stagingPath } from '../import-place.ts';
import { walkCheckpoint } from '../walk.ts';
import { EXPECTED_FILES, FOREIGN_IMAGES, FOREIGN_VOLUMES } from './foreign-files.ts';
import { containerIdOf, derivedCheckpointId, foreignMetadata, formatOf, namedVolumes } from './foreign-metadata.ts';
import { deletedText, type LayerFacts } from './layer.ts';
import { type ArchiveLimits, refused } from './limits.ts';
import { parseForeignSpec } from './spec.ts';
import { type Unpacked, unpackForeign } from './unpack.ts';

const INVENTORY = `${FOREIGN_IMAGES}/inventory.img`;
const PSTREE = `${FOREIGN_IMAGES}/pstree.img`;
const FILES_IMAGE = `${FOREIGN_IMAGES}/files.img`;
/** Of those that are read whole: 64 MiB are a million processes. */
const MAX_IMAGE_BYTES = 64 * 2 ** 20;

export interface ForeignImport {
  /** plain: what it was packed with is off already */
  readonly source: ByteSource;
  readonly form: 'archive' | 'oci-image';
  readonly checkpointsDir: string;
  readonly op: Op;
  readonly limits: ArchiveLimits;
  /** default: name of the container and digits of the content */
  readonly checkpointId?: string;
  /** containerd namespace of the container that is restored, unless the restore says otherwise */
  readonly namespace: string;
  readonly missingMounts: 'keep' | 'empty';
  readonly labels?: Readonly<Record<string, string>>;
  /** called when everything is known, before it becomes a checkpoint: throws where it must not be taken */
  readonly acceptMetadata?: (metadata: Metadata) => void;
  /** of the node that takes it; absent for a store */
  readonly sourceKind?: ForeignSpecInput['sourceKind'];
}

export interface ForeignImported {
  readonly checkpointId: string;
  readonly path: string;
  readonly totalBytes: number;
  /** false: the same was there already */
  readonly created: boolean;
  readonly origin: NonNullable<Metadata['origin']>;
  readonly warnings: readonly string[];
}

/**
 * Crash: a directory `.import-<pid>-<id>`, which is no checkpoint; the next import removes it.
 * @throws CheckpointCorrupt naming the file that was refused or is missing; InvalidInput another checkpoint has the id;
 *   DiskFull; whatever `acceptMetadata` throws. After every error nothing of the archive is on the disk.
 */
export async function importForeign(request: ForeignImport): Promise<ForeignImported> {
  const { source, checkpointsDir, limits, op } = request;
  await mkdir(checkpointsDir, { recursive: true, mode: 0o700 });
  await removeLeftovers(checkpointsDir);
  const staging = stagingPath(checkpointsDir, `foreign-${randomBytes(6).toString('hex')}`);
  await mkdir(staging, { mode: 0o700 });
  try {
    const unpacked = await unpackForeign(source, staging, limits, op);
    const { spec, cleaned, layer } = await finishFiles(request, staging, unpacked);
    const metadata = await describeForeign(request, staging, { unpacked, spec, cleaned, layer });
    request.acceptMetadata?.(metadata);
    const { checkpointId, merkleRoot, sizes, warnings, origin } = metadata;
    const path = join(checkpointsDir, checkpointDirName(checkpointId));
    const result = {
      checkpointId,
      path,
      totalBytes: sizes.totalBytes,
      warnings,
      origin: origin as NonNullable<typeof origin>,
    };
    if (await isThere(path, merkleRoot)) {
      await rm(staging, { recursive: true, force: true });
      return { ...result, created: false };
    }
    await writeSynced(join(staging, METADATA_FILE), `${JSON.stringify(metadata, null, 1)}\n`);
    await syncDir(staging);
    await renameIntoPlace(staging, path);
    return { ...result, created: true };
  } catch (error) {
    await rm(staging, { recursive: true, force: true });
    throw mapDiskFull(error, staging);
  }
}

/** The cleaned specification, and the layer with everything that the specification expects there. */
async function finishFiles(
  request: ForeignImport,
  staging: string,
  { specText, config, names, layer }: Unpacked,
): Promise<{ spec: OciSpec; cleaned: ForeignSpec; layer: LayerFacts }> {
  try {
    const spec = parseForeignSpec(specText);
    const volumes = namedVolumes(config).filter(({ name }) => names.has(`${FOREIGN_VOLUMES}/${name}.tar`));
    const cleaned = cleanSpec({
      spec,
      container: { namespace: request.namespace, id: containerIdOf(config) },
      volumes: new Set(volumes.map(({ destination }) => destination)),
      missingMounts: request.missingMounts,
      ...(request.sourceKind === undefined ? {} : { sourceKind: request.sourceKind }),
    });
    for (const { name, kind, mode, text } of cleaned.places) {
      await (kind === 'file' ? layer.addFile(name, Buffer.from(text), mode) : layer.addDirectory(name, mode));
    }
    for (const { name, destination } of volumes) {
      const file = `${FOREIGN_VOLUMES}/${name}.tar`;
      const below = Buffer.from(destination.slice(1)).toString('latin1');
      await layer.copy(createReadStream(join(staging, ORIGIN_DIR, file)) as AsyncIterable<Uint8Array>, file, below);
    }
    // Engines give the root directory of a layer permissions of their own.
    const mode = names.has(FILES_IMAGE) ? rootMode(await imageIn(staging, FILES_IMAGE), FILES_IMAGE) : undefined;
    if (mode !== undefined) {
      await layer.setRoot(mode);
    }
    const facts = await layer.finish();
    await writeSynced(join(staging, FS_FILES.deletedFiles), deletedText(facts.deleted));
    await writeSynced(join(staging, OWN_FILES.spec), JSON.stringify(cleaned.spec));
    return { spec, cleaned, layer: facts };
  } finally {
    await layer.close();
  }
}

interface Finished {
  readonly unpacked: Unpacked;
  readonly spec: OciSpec;
  readonly cleaned: ForeignSpec;
  readonly layer: LayerFacts;
}

/** Writes the manifest. @returns the metadata, which the caller writes last */
async function describeForeign(
  request: ForeignImport,
  staging: string,
  { unpacked, spec, cleaned, layer }: Finished,
): Promise<Metadata> {
  const { names, config } = unpacked;
  const image = async (name: string): Promise<Uint8Array> => imageIn(staging, name);
  decodeImage(await image(INVENTORY), 'inventory', INVENTORY);
  const tree = processTree(await image(PSTREE), PSTREE);
  const commands = new Map<number, string>();
  let arch = 'unknown';
  for (const { nsPid } of tree) {
    const name = `${FOREIGN_IMAGES}/core-${nsPid}.img`;
    if (!names.has(name)) {
      throw refused(`${name} is missing: the process ${nsPid} cannot be restored`, { file: name });
    }
    const core = coreFacts(await image(name), name);
    commands.set(nsPid, core.command);
    arch = core.arch === 'unknown' ? arch : core.arch;
  }
  await syncTree(staging, request.op);
  const manifest = await describeCheckpoint(staging, request.op);
  const format = formatOf(spec);
  const missing = EXPECTED_FILES[format].filter((name) => !names.has(name));
  const facts = {
    format,
    form: request.form,
    checkpointId: parseCheckpointId(request.checkpointId ?? derivedCheckpointId(config, manifest.merkleRoot)),
    namespace: request.namespace,
    labels: request.labels ?? {},
    config,
    original: spec,
    cleaned,
    sourceKind: request.sourceKind,
    tree,
    commands,
    arch,
    descriptors: await descriptorsIn(staging, names),
    dumpedAtS: unpacked.dumpedAtS,
    deletedFiles: layer.deleted.length,
    sizes: {
      totalBytes: manifest.totalBytes,
      imageBytes: unpacked.imageBytes,
      rootfsBytes: manifest.files.find(({ path }) => path === FS_FILES.rootfsDiff)?.bytes ?? 0,
    },
    merkleRoot: manifest.merkleRoot,
    missing,
    carried: unpacked.carried,
    warnings: [...missing.map((name) => `the archive has no ${name}`), ...cleaned.warnings, ...setuidWarning(layer)],
  };
  await writeFile(join(staging, OWN_FILES.manifest), encodeManifest(manifest), {
    mode: 0o600,
    flag: 'wx',
    flush: true,
  });
  return foreignMetadata(facts);
}

/** @param name as in the archive */
async function imageIn(staging: string, name: string): Promise<Uint8Array> {
  const file = join(staging, CRIU_DIR, name.slice(FOREIGN_IMAGES.length + 1));
  const { size } = await stat(file);
  if (size > MAX_IMAGE_BYTES) {
    throw refused(`${name} has ${size} bytes, more than ${MAX_IMAGE_BYTES}`, { file: name });
  }
  return readFile(file);
}

function setuidWarning({ setuid }: LayerFacts): string[] {
  return setuid === 0 ? [] : [`its layer has ${setuid} files with setuid or setgid`];
}

/** Standard streams, as runc noted them; other runtimes do not. */
async function descriptorsIn(staging: string, names: ReadonlySet<string>): Promise<string[]> {
  if (!names.has('checkpoint/descriptors.json')) {
    return [];
  }
  const text = await readFile(join(staging, CRIU_DIR, 'descriptors.json'), 'utf8');
  try {
    const list: unknown = JSON.parse(text);
    return Array.isArray(list) ? list.filter((entry) => typeof entry === 'string') : [];
  } catch {
    // SyntaxError: runc would stumble over it when the container is restored.
    throw refused('checkpoint/descriptors.json is not JSON', { file: 'checkpoint/descriptors.json' });
  }
}

/** The directories; every file was flushed when it was written. */
async function syncTree(staging: string, op: Op): Promise<void> {
  const dirs = new Set<string>();
  for (const { path } of await walkCheckpoint(staging, op.signal)) {
    for (let slash = path.lastIndexOf('/'); slash > 0; slash = path.lastIndexOf('/', slash - 1)) {
      dirs.add(path.slice(0, slash));
    }
  }
  for (const dir of dirs) {
    await syncDir(join(staging, dir));
  }
}
