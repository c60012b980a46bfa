/* `kybernate up`: the embedded dev environment on this machine. */
import { Option } from 'commander';
import type { Command } from 'commander';
import { KybernateError } from '../../core/errors.ts';
import type { Cli } from '../cli.ts';
import type { ImageName } from '../dev/images.ts';
import type { DevEnvironment } from '../dev/up.ts';
import { exitCodesHelp } from '../exit-codes.ts';
import { needsRoot } from '../needs-root.ts';
import { addHelpTexts, jsonOption } from '../options.ts';
import { createOutput, renderPairs } from '../output.ts';

interface UpFlags {
  readonly store: 'dir' | 's3';
  readonly images?: string;
  readonly namespace: string;
  readonly env?: boolean;
  readonly json?: boolean;
}

export function addUpCommand(program: Command, cli: Cli): void {
  const command = program
    .command('up')
    .summary('start the embedded dev environment')
    .description(
      'Starts a private containerd, a Temporal server with its Web UI, both workers and the sidecar on this machine. Everything ' +
        'listens on loopback or unix sockets and lies in KYBERNATE_DEV_DIR (default: dev in the cache directory). ' +
        'While it is up, commands without settings of their own (KYBERNATE_*, TEMPORAL_*) use it. A second call starts ' +
        'what has ended and changes nothing else. Needs root.',
    )
    .addOption(new Option('--store <kind>', 'where checkpoints go').choices(['dir', 's3']).default('dir'))
    .option('--images <names>', 'images to import, comma-separated: busybox, redis, python (default: busybox,redis)')
    .option('--namespace <name>', 'containerd namespace of the images and of ctr', 'default')
    .option('--env', 'print only the lines that a shell evaluates to use the environment')
    .addOption(jsonOption());
  addHelpTexts(command, {
    examples: [
      ['kybernate up', 'checkpoints go to a directory'],
      ['kybernate up --store s3', 'start a private S3 server too, and use it'],
      ['eval "$(kybernate up --env)"', 'afterwards ctr and temporal in this shell use it, too'],
      ['kybernate down', 'stop all of it'],
    ],
    exitCodes: exitCodesHelp(['Incompatible']),
  });
  command.action((flags: UpFlags) => runUp(flags, cli));
}

/** @throws InvalidInput naming the image that is not known */
async function imageNames(text: string): Promise<ImageName[]> {
  const { IMAGES } = await import('../dev/images.ts');
  return text
    .split(',')
    .filter((word) => word !== '')
    .map((word) => {
      const name = Object.keys(IMAGES).find((known) => known.includes(`/${word}:`));
      if (name === undefined) {
        throw new KybernateError('InvalidInput', `--images: no image ${JSON.stringify(word)}; nothing was started`);
      }
      return name as ImageName;
    });
}

async function runUp(flags: UpFlags, cli: Cli): Promise<void> {
  needsRoot(cli, 'up');
  const { exportLines, up } = await import('../dev/up.ts');
  const output = createOutput(cli.streams, flags);
  const environment = await up({
    env: cli.env,
    node: cli.config().node,
    store: flags.store,
    namespace: flags.namespace,
    ...(flags.images === undefined ? {} : { images: await imageNames(flags.images) }),
    note: (text) => output.note(`kybernate: ${text}`),
  });
  const lines = exportLines(environment);
  output.result(jsonOf(environment), () => (flags.env === true ? lines.join('\n') : humanText(environment, lines)));
}

function jsonOf(environment: DevEnvironment): unknown {
  const { node, paths, variables, containerd, temporal, s3, ctr } = environment;
  return {
    node,
    dir: paths.dir,
    store: variables['KYBERNATE_STORE'],
    containerdAddress: containerd.address,
    temporalAddress: temporal.address,
    temporalNamespace: temporal.namespace,
    uiUrl: temporal.uiUrl,
    ...(s3 === undefined ? {} : { s3Endpoint: s3.endpoint }),
    ctr,
    env: { ...variables, PATH: containerd.path },
  };
}

function humanText(environment: DevEnvironment, lines: readonly string[]): string {
  const { node, paths, variables, temporal, containerd, s3 } = environment;
  const parts = renderPairs([
    ['node', node],
    ['containerd', containerd.address],
    ['Temporal', `${temporal.address}, namespace ${temporal.namespace}`],
    ['Web UI', temporal.uiUrl && `${temporal.uiUrl}/namespaces/${temporal.namespace}/workflows`],
    ['S3', s3?.endpoint],
    ['store', variables['KYBERNATE_STORE']],
    ['directory', `${paths.dir} (logs in ${paths.dir}/logs)`],
  ]);
  return `${parts}

kybernate itself uses it from now on. For ctr and temporal: eval "$(kybernate up --env)", which is:
${lines.map((line) => `  ${line}`).join('\n')}

Then, for example:
  ctr run --detach --null-io docker.io/kybernate/redis:1 redis-1
  kybernate checkpoint redis-1 --namespace ${variables['CONTAINERD_NAMESPACE']}
  kybernate down`;
}
