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

/** Store to node, written by root: apart from the work, so that a long fetch keeps no capture waiting. */
export function fetchQueue(node: string): string {
  return `kybernate-node-${node}-fetch`;
}

/** Reading copies to see whether they are whole: hours, and nobody's restore waits behind it. */
export function verifyQueue(node: string): string {
  return `kybernate-node-${node}-verify`;
}

/** Bytes between one node and the store: served by the node's sidecar, the only one there that has the store's keys. */
export function transferQueue(node: string): string {
  return `kybernate-node-${node}-transfer`;
}
