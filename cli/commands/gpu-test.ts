/* `kybernate gpu test`: can the driver of this machine save VRAM and bring it back, and how fast? */
import type { Command } from 'commander';
import { InvalidArgumentError } from 'commander';
import type { Cli } from '../cli.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import type { GpuTestResult } from '../gpu-test.ts';
import { addHelpTexts, jsonOption } from '../options.ts';
import { createOutput, renderPairs, renderTable } from '../output.ts';
import { formatBytes } from '../units.ts';
import { driverText } from './gpu-list.ts';

interface Flags {
  readonly mib: number;
  readonly device: number;
  readonly json?: boolean;
}

export function addGpuTestCommand(group: Command, cli: Cli): void {
  const command = group
    .command('test')
    .summary('save and restore VRAM of a process of its own, and compare')
    .description(
      'Starts a process that fills VRAM with a known content, has the driver lock, save, restore and unlock it, and ' +
        'compares every byte. Touches no other process; the one that it starts is always ended. Needs root.',
    )
    .option('--mib <count>', 'how much VRAM, in MiB', numberArgument(1), 256)
    .option('--device <index>', 'which GPU, in the order of `kybernate gpu list`', numberArgument(0), 0)
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate gpu test', '256 MiB on the first GPU'],
      ['kybernate gpu test --mib 8192 --device 1 --json', '8 GiB on the second, for a program'],
    ],
    exitCodes: exitCodesHelp([
      'Incompatible',
      'GpuUnsupported',
      'GpuBusy',
      'GpuOutOfMemory',
      'DumpFailed',
      'RestoreFailed',
    ]),
  });
  command.action(async (flags: Flags) => {
    const { testGpu } = await import('../gpu-test.ts');
    const result = await testGpu(cli.env, flags.device, flags.mib * 1024 * 1024);
    createOutput(cli.streams, flags).result(result, () => renderGpuTest(result));
  });
}

function numberArgument(least: number): (text: string) => number {
  return (text) => {
    if (!/^\d{1,7}$/.test(text) || Number(text) < least) {
      throw new InvalidArgumentError(`Give a whole number from ${least} on.`);
    }
    return Number(text);
  };
}

function renderGpuTest(result: GpuTestResult): string {
  const calls = renderTable(result.calls, [
    { title: 'CALL', value: ({ call }) => call },
    { title: 'MS', value: ({ ms }) => ms.toFixed(1), align: 'right' },
    {
      title: 'GB/S',
      value: ({ call, ms }) =>
        call === 'checkpoint' || call === 'restore' ? (result.bytes / 1e6 / Math.max(ms, 0.001)).toFixed(2) : '',
      align: 'right',
    },
  ]);
  const facts = renderPairs([
    ['driver', driverText(result.driver)],
    ['device', `${result.device.name}, ${result.device.uuid}, /dev/nvidia${result.device.minor}`],
    ['content', `${formatBytes(result.bytes)}, the same before and after`],
    ['VRAM of the process', `${formatBytes(result.usedBytes)}, while saved ${formatBytes(result.usedWhileSavedBytes)}`],
  ]);
  return `${facts}\n\n${calls}`;
}
