/* To S3 and back, against the AWS SDK moving the image as one object in parts of 8 MiB, four at a time. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Gateway } from '../../test/harness/versitygw.ts';
import type { BenchOptions, Row } from './report.ts';
import type { Place } from './child.ts';
import { makeImage, type ImageName } from './images.ts';
import { inTurn, megabytesPerSecond, speedup } from './measure.ts';
import { startSubject, type SubjectProcess } from './subject-process.ts';

/** What does not shrink moves as many bytes as the raw object; a real process moves fewer. */
const MEASURED: readonly ImageName[] = ['incompressible', 'redis'];
const GOAL = 0.9;
const MEMORY_GOAL_MIB = 256;

interface Bench {
  readonly subject: SubjectProcess;
  /** another process, so that the memory of each is its own */
  readonly peer: SubjectProcess;
  readonly gateway: Gateway;
  readonly image: string;
  readonly file: string;
  readonly store: Place;
  readonly endpoint: string;
}

export function uploadBench(options: BenchOptions): Promise<Row[]> {
  return onEach(options, async ({ subject, peer, gateway, image, file, store, endpoint }) => {
    await subject.run({ do: 'commit', dir: image, id: 'ck-1' });
    return inTurn(
      {
        raw: async () => {
          await gateway.empty();
          return peer.run({ do: 'raw upload', file, endpoint, key: 'raw' });
        },
        ours: async () => {
          await gateway.empty();
          return subject.run({ do: 'upload', dir: image, id: 'ck-1', store, codec: 'zstd' });
        },
      },
      options.rounds,
    );
  });
}

export function downloadBench(options: BenchOptions): Promise<Row[]> {
  return onEach(options, async ({ subject, peer, image, file, store, endpoint }) => {
    await subject.run({ do: 'commit', dir: image, id: 'ck-1' });
    await subject.run({ do: 'upload', dir: image, id: 'ck-1', store, codec: 'zstd' });
    await peer.run({ do: 'raw upload', file, endpoint, key: 'raw' });
    const target = join(options.dir, 'fetched');
    return inTurn(
      {
        raw: async () => {
          await rm(target, { recursive: true, force: true });
          return peer.run({ do: 'raw download', file: target, endpoint, key: 'raw' });
        },
        ours: async () => {
          await rm(target, { recursive: true, force: true });
          return subject.run({ do: 'download', dir: target, id: 'ck-1', store });
        },
      },
      options.rounds,
    );
  });
}

async function onEach(
  { mib, dir, bundle, say }: BenchOptions,
  measure: (bench: Bench) => ReturnType<typeof inTurn<'raw' | 'ours'>>,
): Promise<Row[]> {
  const rows: Row[] = [];
  for (const name of MEASURED) {
    const image = join(dir, 'image');
    const bytes = await makeImage(name, mib, image);
    const gateway = await Gateway.make(dir);
    const { endpoint } = gateway;
    const subject = startSubject(bundle);
    const peer = startSubject(bundle);
    const store = { url: 's3://bucket', endpoint };
    const file = join(image, 'criu/pages-1.img');
    const { raw, ours } = await measure({ subject, peer, gateway, image, file, store, endpoint });
    const { maxRssMiB } = await subject.run({ do: 'commit', dir: image, id: 'ck-1' });
    await subject.close();
    await peer.close();
    await gateway.remove();
    await rm(image, { recursive: true, force: true });
    await rm(join(dir, 'fetched'), { recursive: true, force: true });
    const ofRaw = speedup(raw, ours);
    const row = {
      name,
      goal: `>= ${GOAL} of raw multipart, <= ${MEMORY_GOAL_MIB} MiB`,
      holds: ofRaw.wall >= GOAL && maxRssMiB <= MEMORY_GOAL_MIB,
      imageMiB: Math.round(bytes / 2 ** 20),
      megabytesPerSecond: { raw: megabytesPerSecond(bytes, raw), ours: megabytesPerSecond(bytes, ours) },
      ofRaw,
      maxRssMiB,
      medians: { raw, ours },
    };
    say(`${name}: ${JSON.stringify(row)}`);
    rows.push(row);
  }
  return rows;
}
