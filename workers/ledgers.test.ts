import { mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { forgetLedgers } from './ledgers.ts';

it('ledgers that nobody has written for longer than an upload may take are forgotten, others stay', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'kybernate-ledgers-'));
  await writeFile(join(dir, 'old.ledger'), '');
  await writeFile(join(dir, 'new.ledger'), '');
  const days = Date.now() / 1000 - 9 * 86_400;
  await utimes(join(dir, 'old.ledger'), days, days);

  await forgetLedgers(dir);

  expect(await readdir(dir)).toEqual(['new.ledger']);
  await rm(dir, { recursive: true });
});
