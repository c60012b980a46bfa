/* A process that uploads a checkpoint to a directory and may be killed at any moment: node upload-child.ts <dir> <store> */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseManifest } from '../../core/checkpoint/manifest.ts';
import { openLocalBackend } from '../../store/backend/local.ts';
import { publishManifest } from '../../store/publish.ts';
import { uploadCheckpoint } from '../../store/upload.ts';
import { testOp } from './checkpoint-dir.ts';

const [dir = '', store = ''] = process.argv.slice(2);
const manifest = parseManifest(await readFile(join(dir, 'manifest.json'), 'utf8'), dir);
const backend = await openLocalBackend(store);
process.stdout.write('begin\n');
await uploadCheckpoint({ checkpointId: 'ck-1', dir, manifest, backend, op: testOp(), packBytes: 1_000_000 });
await publishManifest({ checkpointId: 'ck-1', dir, backend, op: testOp() });
