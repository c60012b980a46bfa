/* The order of the files: a long one that begins last keeps one lane for itself while the others have nothing to do. */
import { basename } from 'node:path';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** Files that last half a minute or more, the longest first. A fresh clone knows no times, and size says little of them. */
const LONGEST = [
  'chaos',
  'gpu-survival',
  'gpu-restore',
  'process',
  'gpu-checkpoint',
  'docker',
  'sidecar',
  'up-down',
  'guard',
  'kubelet-archives',
  'survival',
  'store-faults',
  'agent',
  'process-survival',
  'upload',
  'hooks',
  'gpu-runtime',
  'gpu-analysis',
].map((name) => `${name}.test.ts`);

export class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const sorted = await super.sort(files);
    const rank = ({ moduleId }: TestSpecification): number => {
      const place = LONGEST.indexOf(basename(moduleId));
      return place === -1 ? LONGEST.length : place;
    };
    const system = sorted.filter(({ project }) => project.name === 'system').sort((a, b) => rank(a) - rank(b));
    return sorted.map((file) => (file.project.name === 'system' ? (system.shift() ?? file) : file));
  }
}
