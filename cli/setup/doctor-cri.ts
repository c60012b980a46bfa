/* Whether pods can run on this node at all, and under our runtimes: containerd answers also where they cannot. */
import { type CriState, criState } from '../../native/containerd/cri.ts';
import { RUNTIME_HANDLERS } from '../../shim/containerd-config.ts';
import { canConnect, row, type Diagnosis, type DoctorInput } from './diagnosis.ts';

const NAME = 'CRI plug-in';

/** Nothing where containerd does not answer: another row says so. */
export async function criPlugin({ containerdAddress }: DoctorInput): Promise<Diagnosis[]> {
  return (await canConnect({ path: containerdAddress })) === undefined
    ? [criRow(await criState(containerdAddress))]
    : [];
}

export function criRow(state: CriState): Diagnosis {
  if (state.plugin === 'off') {
    return row(NAME, true, 'off: this containerd runs no pods', '');
  }
  if (state.plugin === 'failed') {
    const remedy = 'no pod runs here: mend its part of `containerd config dump`, and restart containerd';
    return row(NAME, false, state.error, remedy);
  }
  const ours = RUNTIME_HANDLERS.filter((handler) => state.runtimes?.has(handler));
  const detail = ours.length === 0 ? 'it has none of our runtimes' : `it has the runtimes ${ours.join(', ')}`;
  const remedy =
    'pods that are to be restored need them: `kybernate runtime install`, or the chart, and restart containerd';
  return row(NAME, state.runtimes === undefined || ours.length > 0, detail, remedy, 'warn');
}
