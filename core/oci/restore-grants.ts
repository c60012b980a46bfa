/*
 * Whose checkpoints the pods of a namespace may be restored from. Their own, always; others where the node's owner grants
 * it, in one line: `staging=production,*=golden,lab=-`. `*` is every namespace, `-` the checkpoints of no pod.
 */

export interface RestoreGrant {
  /** namespace of the pod that is restored */
  readonly to: string;
  /** namespace of the pod that was checkpointed */
  readonly from: string;
}

const ANY = '*';
const NO_POD = '-';
/** Source: Kubernetes, names of namespaces are DNS labels. */
const NAMESPACE = /^[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?$/;

/** @returns what is wrong with it, as text */
export function parseRestoreGrants(text: string): readonly RestoreGrant[] | string {
  const grants: RestoreGrant[] = [];
  for (const word of text.split(',').map((part) => part.trim())) {
    const [to = '', from = '', ...more] = word.split('=');
    const isRight = (to === ANY || NAMESPACE.test(to)) && (from === ANY || from === NO_POD || NAMESPACE.test(from));
    if (word === '') {
      continue;
    }
    if (!isRight || more.length > 0) {
      return `${JSON.stringify(word)}: write <namespace of the pod>=<namespace of the checkpoint>; * is any, - a checkpoint of no pod`;
    }
    grants.push({ to, from });
  }
  return grants;
}

/** @param owner namespace of the pod that was checkpointed; undefined: it was no pod's */
export function mayRestore(grants: readonly RestoreGrant[], namespace: string, owner: string | undefined): boolean {
  return (
    owner === namespace ||
    grants.some(
      ({ to, from }) =>
        (to === ANY || to === namespace) && (owner === undefined ? from === NO_POD : from === ANY || from === owner),
    )
  );
}
