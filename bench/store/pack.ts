/* From a checkpoint's files to packs in a directory: digests, deduplication, compression, check of every chunk. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Codec } from '../../core/pack/pack.ts';
import type { BenchOptions, Row } from './report.ts';
import type { Answer } from './child.ts';
import { IMAGES, makeImage, type ImageName } from './images.ts';
import { inTurn, megabytesPerSecond, rounded, speedup, type Cost } from './measure.ts';
import { preparePodman } from './podman.ts';
import { restic, tarZstd, type Timed } from './peers.ts';
import { startSubject, type SubjectProcess } from './subject-process.ts';

/** Of tar | zstd: what ours must reach, by image; and of restic, everywhere. */
const GOALS: Readonly<Record<ImageName, number>> = {
  redis: 2,
  python: 2,
  compressible: 0.95,
  incompressible: 0.95,
  zero: 0.95,
};
const RESTIC_GOAL = 1.5;
const MEMORY_GOAL_MIB = 256;
/** Of a peer that is not installed. */
const NOT_MEASURED: Cost = { ms: 0, cpuMs: 0 };

export async function packBench({ mib, rounds, dir, bundle, say }: BenchOptions): Promise<Row[]> {
  const rows: Row[] = [];
  for (const name of IMAGES) {
    const image = join(dir, 'image');
    const bytes = await makeImage(name, mib, image);
    // One process a codec, so that the memory of each is its own.
    const subject = startSubject(bundle);
    const subjectLz4 = startSubject(bundle);
    const podman = await preparePodman(image, join(dir, 'podman'));
    const last: { tar?: Timed; restic?: Timed; zstd?: Answer; lz4?: Answer } = {};
    const medians = await inTurn(
      {
        tar: async () => (last.tar = await tarZstd(image, join(dir, 'out'))),
        zstd: async () => packed(subject, image, join(dir, 'store'), 'zstd', (answer) => (last.zstd = answer)),
        lz4: async () => packed(subjectLz4, image, join(dir, 'store'), 'lz4', (answer) => (last.lz4 = answer)),
        restic: async () => (last.restic = await restic(image, join(dir, 'repo'))),
        podman: async () => podman?.export(join(dir, 'out')) ?? NOT_MEASURED,
      },
      rounds,
    );
    await subject.close();
    await subjectLz4.close();
    const ofTar = speedup(medians.tar, medians.zstd);
    const ofRestic = speedup(medians.restic, medians.zstd);
    const maxRssMiB = last.zstd?.maxRssMiB ?? 0;
    const row = {
      name,
      goal: `>= ${GOALS[name]} of tar|zstd, >= ${RESTIC_GOAL} of restic, <= ${MEMORY_GOAL_MIB} MiB`,
      holds: ofTar.wall >= GOALS[name] && ofRestic.wall >= RESTIC_GOAL && maxRssMiB <= MEMORY_GOAL_MIB,
      imageMiB: Math.round(bytes / 2 ** 20),
      megabytesPerSecond: megabytesPerSecond(bytes, medians.zstd),
      ofTarZstd: ofTar,
      ofRestic,
      ...(podman === undefined
        ? {}
        : { podman: podman.version, ofPodmanExport: speedup(medians.podman, medians.zstd) }),
      lz4OfTarZstd: speedup(medians.tar, medians.lz4),
      maxRssMiB,
      lz4MaxRssMiB: last.lz4?.maxRssMiB,
      storedShare: {
        ours: rounded((last.zstd?.sentBytes ?? 0) / bytes),
        lz4: rounded((last.lz4?.sentBytes ?? 0) / bytes),
        tarZstd: rounded((last.tar?.storedBytes ?? 0) / bytes),
        restic: rounded((last.restic?.storedBytes ?? 0) / bytes),
      },
      medians,
    };
    say(`${name}: ${JSON.stringify(row)}`);
    rows.push(row);
    for (const rest of ['image', 'image.ledger', 'out', 'store', 'repo', 'podman']) {
      await rm(join(dir, rest), { recursive: true, force: true });
    }
  }
  return rows;
}

async function packed(
  subject: SubjectProcess,
  dir: string,
  store: string,
  codec: Codec,
  keep: (answer: Answer) => void,
): Promise<Cost> {
  await rm(store, { recursive: true, force: true });
  const committed = await subject.run({ do: 'commit', dir, id: 'ck-1' });
  const uploaded = await subject.run({ do: 'upload', dir, id: 'ck-1', store: { url: `file://${store}` }, codec });
  keep(uploaded);
  return { ms: committed.ms + uploaded.ms, cpuMs: committed.cpuMs + uploaded.cpuMs };
}
