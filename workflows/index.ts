/* The workflow types. Every export becomes one, so nothing else is exported here. */
export { checkpoint } from './checkpoint.ts';
export { containerLock } from './container-lock.ts';
export { rehearse } from './rehearse.ts';
export { restore } from './restore.ts';
