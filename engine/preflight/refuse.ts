import { KybernateError } from '../../core/errors.ts';
import { findingDetails, type Finding, problemsIn } from '../../core/preflight.ts';
import type { NodeDeps } from '../node-deps.ts';

/** @throws Incompatible with every reason, when one of the findings is an error */
export function refuseFor(findings: readonly Finding[], what: string, { settings }: Pick<NodeDeps, 'settings'>): void {
  const problems = problemsIn(findings);
  if (problems.length > 0) {
    const why = problems.map(({ message }) => message).join('; ');
    throw new KybernateError('Incompatible', `${what} cannot be restored on ${settings.node}: ${why}`, {
      details: findingDetails(problems),
    });
  }
}
