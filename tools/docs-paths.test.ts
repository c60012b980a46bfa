import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { describe, expect, it } from 'vitest';

const ROOT = join(import.meta.dirname, '..');
const DOCUMENTS = globSync('**/*.md', { cwd: ROOT, exclude: ['**/node_modules', 'dist', 'dist.new'] }).toSorted();
const FOLDERS =
  'core|native|engine|store|activities|workflows|workers|shim|client|operator|cli|tools|test|examples|changelog|docs';
// Of runc, which the comments cite.
const FOREIGN = new Set(['docs/systemd.md', 'docs/checkpoint-restore.md']);
const anchors = new Map(DOCUMENTS.map((document) => [document, anchorsOf(read(document))]));

function read(file: string): string {
  return readFileSync(join(ROOT, file), 'utf8');
}

function withoutBlocks(markdown: string): string {
  return markdown.replaceAll(/^ *```[^]*?^ *```$/gm, '');
}

/** As GitHub makes them of headings: lower case, punctuation away, blanks to dashes, and a number behind the second of a name. */
function anchorsOf(markdown: string): Set<string> {
  const all = new Set<string>();
  for (const [, heading = ''] of withoutBlocks(markdown).matchAll(/^#+ (.+)$/gm)) {
    const name = heading
      .replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}_\- ]/gu, '')
      .replaceAll(' ', '-');
    let anchor = name;
    for (let count = 1; all.has(anchor); count += 1) {
      anchor = `${name}-${count}`;
    }
    all.add(anchor);
  }
  return all;
}

/** @param links of a document, as they are written; @returns those that lead nowhere: no file, or no such heading in it */
function deadLinks(document: string, links: readonly string[]): string[] {
  return links.filter((link) => {
    const [path = '', anchor] = link.split('#');
    const target = path === '' ? document : normalize(join(dirname(document), path));
    return !existsSync(join(ROOT, target)) || (anchor !== undefined && anchors.get(target)?.has(anchor) !== true);
  });
}

describe.each(DOCUMENTS.filter((document) => !document.startsWith('changelog/')))('%s', (document) => {
  it('names only files that exist', () => {
    const named = [...read(document).matchAll(new RegExp(`\`((?:${FOLDERS})/[\\w./-]*)\``, 'g'))];

    expect(named.map(([, path]) => path ?? '').filter((path) => !existsSync(join(ROOT, path)))).toEqual([]);
  });
});

describe('a link', () => {
  it.each(DOCUMENTS)('of %s leads to a file and a heading that exist', (document) => {
    const text = withoutBlocks(read(document)).replaceAll(/`[^`\n]*`/g, '');
    const links = [...text.matchAll(/\]\((?!\w+:)([^)\s]+)\)/g)].map(([, link]) => link ?? '');

    expect(deadLinks(document, links)).toEqual([]);
  });

  it('of a message, a comment or an example leads to a document and a heading that exist', () => {
    const all = `{${FOLDERS.replaceAll('|', ',')},helm}/**/*.{ts,sh,yaml,tpl,txt}`;
    const sources = globSync(all, { cwd: ROOT, exclude: ['test', '**/*.test.ts'] });
    const links = sources.flatMap((file) => {
      const named = [...read(file).matchAll(/\bdocs\/[\w-]+\.md(?:#[\w-]+)?/g)].map(([link]) => link);
      const ours = named.filter((link) => !FOREIGN.has(link));
      return deadLinks('README.md', ours).map((link) => `${file}: ${link}`);
    });

    expect(sources.length).toBeGreaterThan(500);
    expect(links).toEqual([]);
  });

  it('that leads nowhere is found', () => {
    const dead = ['nowhere.md', 'operator.md#nowhere', '#nowhere', '#restore-2'];

    expect(
      deadLinks('docs/operator.md', ['../README.md', 'store.md', '#restore', 'store.md#the-store', ...dead]),
    ).toEqual(dead);
  });
});
