/* Text for people about the copies of a checkpoint that were looked at. */
import type { PlaceReport, Problem } from '../core/contract/verify.ts';
import { renderTable } from './output.ts';
import { formatBytes } from './units.ts';

export function renderCopies(places: readonly PlaceReport[]): string {
  const table = renderTable(places, [
    { title: 'COPY', value: ({ place }) => place },
    { title: 'STATE', value: stateOf },
    { title: 'FILES', value: ({ files, found }) => (found ? String(files) : '-'), align: 'right' },
    { title: 'READ', value: ({ bytes, found }) => (found ? formatBytes(bytes) : '-'), align: 'right' },
    { title: 'WHERE', value: ({ where }) => where },
  ]);
  return [table, ...places.filter(({ problemCount }) => problemCount > 0).map(renderProblems)].join('\n\n');
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
