import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { KybernateError } from '../core/errors.ts';

/** `proto/` of the package, from the sources (`native/`) and from the compiled tree (`dist/native/`) alike. */
export function protoDirectory(): string {
  for (let dir = import.meta.dirname; dir !== dirname(dir); dir = dirname(dir)) {
    const candidate = join(dir, 'proto');
    if (existsSync(join(candidate, 'transfer.proto'))) {
      return candidate;
    }
  }
  throw new KybernateError('Internal', `the package's directory proto was not found above ${import.meta.dirname}`);
}
