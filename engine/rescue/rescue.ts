/*
 * What stands still, is half-made or poisoned on this node, found by files, cgroups and the driver alone, and its repair.
 * For the hour in which Temporal, containerd or the node worker is what is down.
 */
import { messageOf } from '../../core/errors.ts';
import type { Finding, RescueDeps } from './finding.ts';
import { operationFindings } from './operations.ts';
import { pausedFindings } from './paused.ts';
import { cgroupFindings, fileFindings, gpuFindings, mountFindings, networkFindings } from './traces.ts';

export interface Survey {
  readonly findings: readonly Finding[];
  /** what could not be looked at, and why */
  readonly unseen: readonly string[];
}

/**
 * Looks at everything, changes nothing.
 * @param wanted operation id (or its begin), container, table or path; absent: all
 */
export async function survey(deps: RescueDeps, wanted?: string): Promise<Survey> {
  const findings: Finding[] = [];
  const unseen: string[] = [];
  const looks: Readonly<Record<string, (deps: RescueDeps) => readonly Finding[] | Promise<readonly Finding[]>>> = {
    operations: operationFindings,
    'GPU processes': gpuFindings,
    'network locks': networkFindings,
    mounts: mountFindings,
    cgroups: cgroupFindings,
    files: fileFindings,
    'frozen cgroups': pausedFindings,
  };
  for (const [name, look] of Object.entries(looks)) {
    try {
      findings.push(...(await look(deps)));
    } catch (error) {
      unseen.push(`${name}: ${messageOf(error)}`);
    }
  }
  return { findings: wanted === undefined ? findings : findings.filter((one) => isMeant(one, wanted)), unseen };
}

function isMeant({ id, container }: Finding, wanted: string): boolean {
  const isIdPart = wanted.length >= 8 && /^[0-9a-f]+$/.test(wanted) && id.startsWith(wanted);
  return id === wanted || isIdPart || container === wanted || container?.split('/').at(-1) === wanted;
}

export interface Repaired {
  readonly id: string;
  /** what was done; absent when it failed */
  readonly done?: string;
  readonly error?: string;
}

export interface RepairOptions {
  /** somebody has named it: what may be so on purpose is repaired too */
  readonly named: boolean;
  /** what a live runner has is taken from it */
  readonly force: boolean;
}

/** Repairs one after the other; one that fails keeps no other from being tried. */
export async function repair(findings: readonly Finding[], options: RepairOptions): Promise<readonly Repaired[]> {
  const repaired: Repaired[] = [];
  for (const { id, state, repair: act } of findings) {
    const wanted = (state !== 'on purpose' || options.named) && (state !== 'at work' || options.force);
    if (act === undefined || !wanted) {
      continue;
    }
    try {
      repaired.push({ id, done: await act() });
    } catch (error) {
      repaired.push({ id, error: messageOf(error) });
    }
  }
  return repaired;
}
