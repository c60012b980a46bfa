import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { newCheckpointId } from '../core/ids.ts';
import { kubernetesCheckpointSpec, kubernetesRestoreSpec } from '../core/contract/kubernetes.ts';

const ROOT = join(import.meta.dirname, '..');
// The CRDs are made from these, and say less: an API server drops a field that it does not know.
const SPECS = { Checkpoint: kubernetesCheckpointSpec, Restore: kubernetesRestoreSpec };
const API_VERSION = 'kybernate.io/v1alpha1';

interface KubernetesObject {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata?: { readonly name?: string };
  readonly spec?: unknown;
}

/** Objects of ours in examples and in blocks of the documents, by the place where they stand. */
function ourObjects(): [place: string, object: KubernetesObject][] {
  const examples = globSync('examples/kubernetes/*.yaml', { cwd: ROOT }).map((file) => [file, textOf(file)] as const);
  const blocks = globSync('docs/*.md', { cwd: ROOT }).flatMap((file) =>
    [...textOf(file).matchAll(/^```yaml\n([^]*?)^```$/gm)].map(([, block]) => [file, block ?? ''] as const),
  );
  return [...examples, ...blocks].flatMap(([file, text]) =>
    parseAllDocuments(text)
      .map((document) => document.toJS() as KubernetesObject)
      .filter(({ apiVersion }) => apiVersion === API_VERSION)
      .map((object): [string, KubernetesObject] => [`${file}: ${object.kind} ${object.metadata?.name}`, object]),
  );
}

function textOf(file: string): string {
  return readFileSync(join(ROOT, file), 'utf8');
}

describe('an example', () => {
  it('has ids of checkpoints as they are made', () => {
    const shape = /^ck-\d{14}-[0-9a-f]{8}$/;
    const texts = globSync(['*.md', 'docs/*.md', 'examples/**/*.{md,yaml,sh}'], { cwd: ROOT }).map(textOf);
    const ids = texts.flatMap((text) => [...text.matchAll(/\bck-\d[\w-]*/g)].map(([id]) => id));

    expect(newCheckpointId('2026-01-01T12:00:00.000Z', '0a1b2c3d-4e5f')).toMatch(shape);
    expect(ids.length).toBeGreaterThan(5);
    expect(ids.filter((id) => !shape.test(id))).toEqual([]);
  });

  it.each(ourObjects())('asks for what there is: %s', (_place, { kind, spec }) => {
    expect(Object.keys(SPECS)).toContain(kind);

    expect(SPECS[kind as keyof typeof SPECS].safeParse(spec).error?.issues).toBeUndefined();
  });

  it('of each kind of object is there, and of a restore by its id', () => {
    const objects = ourObjects().filter(([place]) => place.startsWith('examples/'));

    expect(objects.map(([, { kind }]) => kind)).toEqual(['Checkpoint', 'Restore', 'Restore']);
    expect(objects.at(-1)?.[1].spec).toMatchObject({ checkpointId: expect.any(String), template: expect.any(Object) });
  });

  it('is one that a test runs, or `make demo`', () => {
    const tests = ['Makefile', ...globSync('test/**/*.ts', { cwd: ROOT })].map(textOf).join('\n');
    const manifests = globSync('examples/kubernetes/*', { cwd: ROOT }).map((file) => file.replace(/^.*\//, ''));
    const programs = globSync('examples/*/{run.sh,main.ts,demo.ts}', { cwd: ROOT });

    expect(programs).not.toEqual([]);
    expect([...manifests, ...programs].filter((name) => !tests.includes(name))).toEqual([]);
  });
});
