import { type Finding, problem } from '../../core/preflight.ts';
import { locateProgram } from '../../native/runc/runc.ts';
import type { NodeDeps } from '../node-deps.ts';

const PROGRAMS: Readonly<Record<string, string>> = {
  tar: 'package tar',
  nsenter: 'package util-linux',
  nft: 'package nftables',
};

/** Programs that are started in the middle of a checkpoint or a restore. */
export async function missingPrograms(deps: Pick<NodeDeps, 'settings'>): Promise<Finding[]> {
  const found = await Promise.all(
    Object.entries(PROGRAMS).map(async ([name, from]) =>
      (await locateProgram(name, deps.settings.programPath)) === undefined
        ? [problem('programs', `${name} is not installed (${from})`)]
        : [],
    ),
  );
  return found.flat();
}
