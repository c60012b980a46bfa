/* The thread of chunk-workers.ts: answers one job after the other. */
import { isMarkedAsUntransferable, parentPort } from 'node:worker_threads';
import { JOB_BYTES, runJob, type Job, type Result } from './chunk-jobs.ts';

const scratch = Buffer.allocUnsafeSlow(JOB_BYTES);
const port = parentPort;
port?.on('message', (job: Job) => {
  try {
    const result = runJob(job, scratch);
    port.postMessage({ result }, memoryOf(result));
  } catch (error) {
    port.postMessage({ error });
  }
});

/** What can be handed over instead of copied. */
function memoryOf(result: Result): ArrayBuffer[] {
  if (result.kind === 'encoded') {
    return [result.memory];
  }
  const raw = result.kind === 'decoded' ? result.raw : [];
  const buffers = new Set(raw.map((bytes) => bytes?.buffer));
  return [...buffers].filter(
    (buffer): buffer is ArrayBuffer => buffer instanceof ArrayBuffer && !isMarkedAsUntransferable(buffer),
  );
}
