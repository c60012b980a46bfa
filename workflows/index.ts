/* The workflow types. Every export becomes one, so nothing else is exported here. */
export { checkpoint } from './checkpoint.ts';
export { collectGarbage } from './collect-garbage.ts';
export { containerLock } from './container-lock.ts';
export { deleteCheckpoint } from './delete-checkpoint.ts';
export { importCheckpoint } from './import-checkpoint.ts';
export { inspectRestore } from './inspect-restore.ts';
export { listCopies } from './list-copies.ts';
export { prefetch } from './prefetch.ts';
export { preflight } from './preflight.ts';
export { rehearse } from './rehearse.ts';
export { repairCheckpoint } from './repair-checkpoint.ts';
export { restore } from './restore.ts';
export { restoreProcess } from './restore-process.ts';
export { verifyCheckpoint } from './verify-checkpoint.ts';
// Temporal calls the default export for every other type; it knows no other way to name one.
export { unknownType as default } from './unknown-type.ts';
