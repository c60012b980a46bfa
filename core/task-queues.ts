/* Names of the task queues; nobody builds one by hand. */

/** All workflows and the control activities. Typed by people in the Web UI. */
export const CONTROL_QUEUE = 'kybernate';

/** Work on one node: few slots, minutes long. */
export function nodeQueue(node: string): string {
  return `kybernate-node-${node}`;
}

/** Probe, thaw, clean-up on one node: never waits behind work. */
export function nodeControlQueue(node: string): string {
  return `kybernate-node-${node}-ctl`;
}

/** Bytes between one node and the store. */
export function transferQueue(node: string): string {
  return `kybernate-node-${node}-transfer`;
}
