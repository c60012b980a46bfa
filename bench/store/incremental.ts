/* What a second checkpoint of the same process stores, and how many requests a GiB takes. */
import { randomFillSync } from 'node:crypto';
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { S3Proxy } from '../../test/harness/s3-proxy.ts';
import { Gateway } from '../../test/harness/versitygw.ts';
import type { BenchOptions, Row } from './report.ts';
import type { Place } from './child.ts';
import { makeImage } from './images.ts';
import { rounded } from './measure.ts';
import { startSubject } from './subject-process.ts';

const PAGE = 4096;
const SHARE = 0.01;
const REQUESTS_GOAL = 150;

/** Pages of the image that change, 1 % of them. */
const CHANGES = {
  uniform: { goal: 0.2, pick: (pages: number) => [...distinct(pages, Math.round(pages * SHARE))] },
  clustered: {
    goal: 0.02,
    // 16 places in the process
    pick: (pages: number) => {
      const each = Math.round((pages * SHARE) / 16);
      return Array.from({ length: 16 }, (_, place) => Math.floor(((place + 0.5) * pages) / 16)).flatMap((first) =>
        Array.from({ length: each }, (_, index) => first + index),
      );
    },
  },
};

function distinct(pages: number, count: number): Set<number> {
  const picked = new Set<number>();
  while (picked.size < count) {
    picked.add(Math.floor(Math.random() * pages));
  }
  return picked;
}

export async function incrementalBench({ mib, dir, bundle, say }: BenchOptions): Promise<Row[]> {
  const rows: Row[] = [];
  for (const [name, { goal, pick }] of Object.entries(CHANGES)) {
    const image = join(dir, 'image');
    const bytes = await makeImage('redis', mib, image);
    const place = { url: `file://${join(dir, 'store')}` };
    const subject = startSubject(bundle);
    const checkpoint = async (id: string): Promise<number> => {
      await subject.run({ do: 'commit', dir: image, id });
      return (await subject.run({ do: 'upload', dir: image, id, store: place, codec: 'none' })).sentBytes ?? 0;
    };
    const first = await checkpoint('ck-1');
    await change(join(image, 'criu/pages-1.img'), pick(bytes / PAGE));
    const second = await checkpoint('ck-2');
    await subject.close();
    const share = second / first;
    const row = { name: `1 % of the pages, ${name}`, goal: `<= ${goal} of its bytes`, holds: share <= goal };
    rows.push({ ...row, imageMiB: Math.round(bytes / 2 ** 20), share: Math.round(share * 1e4) / 1e4 });
    say(JSON.stringify(rows.at(-1)));
    await rm(image, { recursive: true });
    await rm(join(dir, 'store'), { recursive: true });
  }
  rows.push(await requests(Math.max(mib, 1024), dir, bundle));
  say(JSON.stringify(rows.at(-1)));
  return rows;
}

async function change(path: string, pages: readonly number[]): Promise<void> {
  const file = await open(path, 'r+');
  const page = Buffer.alloc(PAGE);
  for (const number of pages) {
    await file.write(randomFillSync(page), 0, PAGE, number * PAGE);
  }
  await file.close();
}

/** Counted by a proxy in front of the server: everything from the lease to the published manifest. */
async function requests(mib: number, dir: string, bundle: string): Promise<Row> {
  const image = join(dir, 'image');
  const bytes = await makeImage('incompressible', mib, image);
  const gateway = await Gateway.make(dir);
  const proxy = await S3Proxy.start(gateway.port);
  const subject = startSubject(bundle);
  try {
    await subject.run({ do: 'commit', dir: image, id: 'ck-1' });
    const store: Place = { url: 's3://bucket', endpoint: proxy.endpoint };
    await subject.run({ do: 'upload', dir: image, id: 'ck-1', store, codec: 'zstd' });
    const perGiB = proxy.requests.length / (bytes / 2 ** 30);
    const row = { name: 'requests of an upload', goal: `<= ${REQUESTS_GOAL} a GiB`, holds: perGiB <= REQUESTS_GOAL };
    return { ...row, imageMiB: Math.round(bytes / 2 ** 20), perGiB: rounded(perGiB) };
  } finally {
    await subject.close();
    await proxy.close();
    await gateway.remove();
    await rm(image, { recursive: true });
  }
}
