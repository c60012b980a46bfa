/*
 * The numbers of native/{cuda,nvml}/abi.ts against the headers themselves. Headers are no part of a driver: where there is
 * no toolkit the comparison is skipped, and the report says so. KYBERNATE_CUDA_INCLUDE names another directory.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { GPU_PROCESS_STATES } from '../../core/gpu/process-state.ts';
import {
  ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
  ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
  LAYOUT,
  registeredLayout,
} from '../cuda/abi.ts';
import { CUDA } from '../cuda/codes.ts';
import { NVML, NVML_LAYOUT } from '../nvml/abi.ts';

const INCLUDES = [process.env['KYBERNATE_CUDA_INCLUDE'] ?? '', '/usr/local/cuda/include', '/usr/include'];

function includeWith(header: string): string | undefined {
  return INCLUDES.find((directory) => directory !== '' && existsSync(join(directory, header)));
}

/** `type field number` lines as nested records. */
function probe(source: string, include: string): Record<string, Record<string, number>> {
  const dir = mkdtempSync(join(tmpdir(), 'kyb-probe-'));
  try {
    const program = join(dir, 'probe');
    const path = fileURLToPath(new URL(source, import.meta.url));
    const compiled = spawnSync('gcc', ['-I', include, '-o', program, path]);
    expect(compiled.stderr.toString()).toBe('');
    const found: Record<string, Record<string, number>> = {};
    for (const line of spawnSync(program).stdout.toString().trim().split('\n')) {
      const [type = '', field = '', number] = line.split(' ');
      (found[type] ??= {})[field] = Number(number);
    }
    return found;
  } finally {
    rmSync(dir, { recursive: true });
  }
}

describe('cuda.h', () => {
  it('koffi lays the structures out as abi.ts says', () => {
    expect(registeredLayout()).toEqual(LAYOUT);
  });

  const include = includeWith('cuda.h');
  it.skipIf(include === undefined)(
    `has these sizes, offsets and numbers${include === undefined ? ' (no cuda.h here)' : ''}`,
    () => {
      const { value: values, ...types } = probe('abi-probe.c', include ?? '');

      // 12.8 has no map yet; what it has must be where we think.
      expect(LAYOUT).toMatchObject(types);
      const { CUDA_VERSION: version, ...numbers } = values ?? {};
      expect(version).toBeGreaterThanOrEqual(12_080);
      expect(Object.keys(types).length).toBe(Number(version) >= 13_000 ? 6 : 5);
      expect(numbers).toEqual({
        ...CUDA,
        ...Object.fromEntries(GPU_PROCESS_STATES.map((state, index) => [state, index])),
        CAPABILITY_MAJOR: ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
        CAPABILITY_MINOR: ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
      });
    },
  );
});

describe('nvml.h', () => {
  const include = includeWith('nvml.h');
  it.skipIf(include === undefined)(
    `has these sizes, offsets and numbers${include === undefined ? ' (no nvml.h here)' : ''}`,
    () => {
      const { value: numbers, ...types } = probe('nvml-probe.c', include ?? '');

      expect(types).toEqual(NVML_LAYOUT);
      expect(numbers).toEqual(NVML);
    },
  );
});
