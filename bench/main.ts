/*
 * npm run bench -- <subject> [--quick] [--json]
 * The last line is one JSON object: subject, ours, peer, ratio, difference, unit, goal, holds. `store` has subjects of
 * its own (store/bench.ts).
 */
import { parseArgs } from 'node:util';
import { measure, type Subject } from './subject.ts';

const SUBJECTS: Readonly<Record<string, () => Promise<Subject>>> = {
  freeze: async () => (await import('./freeze.ts')).freezeSubject,
  hooks: async () => (await import('./hooks.ts')).hooksSubject,
  guard: async () => (await import('./guard.ts')).guardSubject,
  preflight: async () => (await import('./preflight.ts')).preflightSubject,
  orchestration: async () => (await import('./orchestration.ts')).orchestrationSubject,
  pods: async () => (await import('./pods.ts')).podsSubject,
  shim: async () => (await import('./shim.ts')).shimSubject,
};

const { values, positionals } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
    mib: { type: 'string' },
    rounds: { type: 'string' },
    full: { type: 'boolean' },
    out: { type: 'string' },
  },
  allowPositionals: true,
});
if (positionals[0] === 'store') {
  const { runStoreBench } = await import('./store/bench.ts');
  console.log(await runStoreBench(positionals[1] ?? '', values));
  process.exit(0);
}
const load = SUBJECTS[positionals[0] ?? ''];
if (load === undefined) {
  console.error(`usage: npm run bench -- <${Object.keys(SUBJECTS).join(' | ')} | store> [--quick] [--json]`);
  process.exit(2);
}
const subject = await load();
if (!values.json) {
  console.log(`${subject.name}: ${subject.what}`);
}
const report = await measure(subject, values.quick, (line) => (values.json ? console.error(line) : console.log(line)));
console.log(JSON.stringify(report));
