/* npm run check: types, lint, format, layers and unit tests, two at a time; prints output only of what fails. */
import { CHECK_STEPS, type CheckStep, runCheck } from './check-steps.ts';

const UNIT: CheckStep = { name: 'unit tests', command: ['vitest', 'run', '--project', 'unit', '--reporter=dot'] };

/** More at once take longer together: type-aware lint and tsc use every processor themselves. */
const AT_ONCE = 2;

const begin = performance.now();
const waiting = [UNIT, ...CHECK_STEPS];
let failed = 0;

async function work(): Promise<void> {
  for (let step = waiting.shift(); step !== undefined; step = waiting.shift()) {
    const { ok, seconds, output } = await runCheck(step);
    failed += ok ? 0 : 1;
    console.log(`${ok ? 'ok    ' : 'FAILED'}  ${step.name} (${seconds} s)${ok ? '' : `\n${output}`}`);
  }
}

await Promise.all(Array.from({ length: AT_ONCE }, work));
console.log(
  `check: ${failed === 0 ? 'all well' : `${failed} failed`} in ${((performance.now() - begin) / 1000).toFixed(1)} s`,
);
process.exitCode = failed === 0 ? 0 : 1;
