/*
 * Before every file: the servers of its lane, a private containerd with the test images, a Temporal server and an S3 server.
 * The first file of a lane starts them, hence one that runs alone starts no others. They outlive it.
 */
import { existsSync } from 'node:fs';
import { basename } from 'node:path';

import { importImages } from '../../cli/dev/images.ts';
import { requireProgram } from '../../cli/setup/programs.ts';
import { writeJson } from '../../engine/operation.ts';
import { serversIn } from '../harness/dev-servers.ts';
import { BUSYBOX_IMAGE, PYTHON_IMAGE, REDIS_IMAGE } from '../harness/images.ts';
import { laneDir, laneFile, type LaneServers } from '../harness/provided.ts';

async function startLane(of: string): Promise<LaneServers> {
  const servers = serversIn(of);
  const { runDir } = servers;
  // All containerds of a machine share runc's root below the namespace: two at once must not meet there.
  const namespace = basename(of).toLowerCase();
  const [temporal, containerd, s3] = await Promise.all([servers.temporal(), servers.containerd(), servers.s3()]);
  await importImages(containerd, namespace, [BUSYBOX_IMAGE, REDIS_IMAGE, PYTHON_IMAGE], process.env);
  const { address, dir, path } = containerd;
  const [runc = '', criu = '', ctr = ''] = (['runc', 'criu', 'ctr'] as const).map((name) =>
    requireProgram(name, process.env),
  );
  return { temporal, containerd: { address, dir, path, namespace, runDir }, s3, programs: { runc, criu, ctr } };
}

if (!existsSync(laneFile())) {
  writeJson(laneFile(), await startLane(laneDir()));
}
