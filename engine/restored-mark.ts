/**
 * The wrapper's mark on a container that it has restored, in the directory that runc keeps for it, and removes with it: the
 * operation, and where its first start is to be noted, a line each. `start` (shim/kybernate-runc) has nothing else to do.
 */
export const RESTORED_MARK = 'kybernate-restored';
