/* Text for people about the copies of a checkpoint that were looked at. */
import type { PlaceReport, Problem, VerifyMode } from '../core/contract/verify.ts';
import { renderTable } from './output.ts';
import { formatBytes } from './units.ts';

/** @param mode `quick` has read no file, and of a store not even the list of them */
export function renderCopies(places: readonly PlaceReport[], mode: VerifyMode): string {
  const table = renderTable(places, [
    { title: 'COPY', value: ({ place }) => place },
    { title: 'STATE', value: stateOf },
    { title: 'FILES', value: ({ files, found }) => (found && files > 0 ? String(files) : '-'), align: 'right' },
    {
      title: 'READ',
      value: ({ bytes, found }) => (found && mode === 'full' ? formatBytes(bytes) : '-'),
      align: 'right',
    },
    { title: 'WHERE', value: ({ where }) => where },
  ]);
  const damages = places.filter(({ problemCount }) => problemCount > 0).map(renderProblems);
  const depth = mode === 'quick' ? ['presence and sizes only; --full reads every byte'] : [];
  return [table, ...damages, ...depth].join('\n\n');
}

function stateOf({ found, ok, problemCount }: PlaceReport): string {
  if (!found) {
    return 'not there';
  }
  return ok ? 'whole' : `damaged: ${String(problemCount)} ${problemCount === 1 ? 'problem' : 'problems'}`;
}

function renderProblems({ place, problems, problemCount }: PlaceReport): string {
  const more = problemCount - problems.length;
  return [
    `${place}:`,
    ...problems.map((problem) => `  ${problem.kind.padEnd(8)}${subjectOf(problem)}: ${problem.message}`),
    ...(more > 0 ? [`  and ${String(more)} more`] : []),
  ].join('\n');
}

function subjectOf({ file, chunk, object }: Problem): string {
  if (file === undefined) {
    return object ?? 'the checkpoint';
  }
  return chunk === undefined ? file : `${file} chunk ${String(chunk)}`;
}
