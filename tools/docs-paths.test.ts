import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';

const ROOT = join(import.meta.dirname, '..');
const DOCUMENTS = [
  'README.md',
  'CONTRIBUTING.md',
  'docs/architecture.md',
  'docs/configuration.md',
  'docs/errors.md',
  'docs/format.md',
  'docs/gpu.md',
  'docs/docker.md',
  'docs/operations.md',
  'docs/reliability.md',
  'docs/support.md',
];
const FOLDERS =
  'core|native|engine|store|activities|workflows|workers|shim|client|operator|cli|tools|test|examples|changelog|docs';

describe.each(DOCUMENTS)('%s', (document) => {
  const text = readFileSync(join(ROOT, document), 'utf8');

  it('names only files that exist', () => {
    const named = [...text.matchAll(new RegExp(`\`((?:${FOLDERS})/[\\w./-]*)\``, 'g'))].map(([, path]) => path ?? '');

    expect(named.filter((path) => !existsSync(join(ROOT, path)))).toEqual([]);
  });

  it('links only to files that exist', () => {
    const links = [...text.matchAll(/\]\((?!https?:|#)([^)#]+)/g)].map(([, path]) => path ?? '');

    expect(links.filter((path) => !existsSync(join(ROOT, dirname(document), path)))).toEqual([]);
  });

  it('links only to headings that exist', () => {
    const broken = [...text.matchAll(/\]\((?!https?:)([^)#]*)#([^)]+)\)/g)].filter(([, path, anchor]) => {
      const target = path ? join(ROOT, dirname(document), path) : join(ROOT, document);
      return !anchorsOf(readFileSync(target, 'utf8')).has(anchor ?? '');
    });

    expect(broken.map(([link]) => link)).toEqual([]);
  });
});

/** As GitHub makes them of headings: lower case, punctuation away, blanks to dashes. */
function anchorsOf(markdown: string): Set<string> {
  const headings = [...markdown.matchAll(/^#+ (.+)$/gm)].map(([, heading]) => heading ?? '');
  return new Set(
    headings.map((heading) =>
      heading
        .toLowerCase()
        .replaceAll(/[^\w\- ]/g, '')
        .replaceAll(' ', '-'),
    ),
  );
}
