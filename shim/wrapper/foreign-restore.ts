/*
 * `runc restore` that somebody else asks for, as `podman container restore` and `docker start --checkpoint` do. Images and
 * options are theirs; what runc does for the network of a new container and not for that of a restored one is done here.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { withLoopback } from '../../core/oci/loopback.ts';
import { parseRuncRestore } from '../../core/oci/runc-argv.ts';
import { parseSpec, specText } from '../../core/oci/spec.ts';
import { replaceFile } from './files.ts';

/**
 * Puts what is missing into the bundle's specification, which the engine makes anew for every start. Idempotent; without
 * a specification nothing is done: runc will say so.
 * @param argv arguments of runc, a `restore`
 * @param cwd of the caller: relative paths start there
 */
export function prepareForeignRestore(argv: readonly string[], cwd: string): void {
  const configFile = join(resolve(cwd, parseRuncRestore(argv).bundle ?? '.'), 'config.json');
  if (!existsSync(configFile)) {
    return;
  }
  const text = readFileSync(configFile, 'utf8');
  const spec = parseSpec(text, configFile);
  const wanted = withLoopback(spec);
  if (wanted !== spec) {
    replaceFile(configFile, specText(wanted));
  }
}
