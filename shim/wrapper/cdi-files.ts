/* CDI specifications of this node, JSON or YAML. The reader of YAML is loaded when there is a file for it. */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf } from '../../core/errors.ts';
import { type CdiSpec, parseCdi } from '../../core/oci/cdi.ts';

/** The later one counts more. Source: CNCF CDI, SPEC.md, "CDI JSON Specification". */
const DIRS = ['/etc/cdi', '/var/run/cdi'];

/**
 * @param root prefix of every path; empty for the node's own root
 * @param warnings gets a line for each file that cannot be read: one of another vendor's must not stop a container
 */
export async function readCdiSpecs(root: string, warnings: string[]): Promise<readonly CdiSpec[]> {
  const specs: CdiSpec[] = [];
  for (const path of DIRS.flatMap((dir) => filesIn(join(root, dir)))) {
    try {
      const spec = parseCdi(await contentOf(path), path);
      if (spec !== undefined) {
        specs.push(spec);
      }
    } catch (error) {
      warnings.push(`${path}: ${messageOf(error)}`);
    }
  }
  return specs;
}

async function contentOf(path: string): Promise<unknown> {
  const text = readFileSync(path, 'utf8');
  if (path.endsWith('.json')) {
    return JSON.parse(text) as unknown;
  }
  // A bundle of its own beside ours: most containers need no YAML.
  const { parse } = await import('yaml');
  return parse(text) as unknown;
}

function filesIn(dir: string): string[] {
  try {
    return readdirSync(dir)
      .filter((name) => /\.(?:json|ya?ml)$/.test(name))
      .sort()
      .map((name) => join(dir, name));
  } catch {
    // No such directory.
    return [];
  }
}
