/* The thread of chunk-workers.ts: answers one job after the other. */
import { parentPort } from 'node:worker_threads';
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

/** What is handed over instead of copied. */
function memoryOf(result: Result): ArrayBuffer[] {
  return result.kind === 'decoded' || result.kind === 'encoded' ? [result.memory] : [];
}
