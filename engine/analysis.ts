/*
 * What the processes of a container hold decides how CRIU is called: as few options as possible, each with its reason,
 * and every reason why it cannot be called at all, before anything is touched.
 */
import { parseSpec } from '../core/oci/spec.ts';
import { userNamespaceReasons } from '../core/oci/user-namespace.ts';
import { criuConfigText } from '../native/criu/config-file.ts';
import { hugePagesOf } from '../native/proc/huge-pages.ts';
import { namespaceInode, type NamespaceType } from '../native/proc/ns.ts';
import { type ProcessSurvey, surveyProcess } from './analysis-process.ts';
import type { Analysis, AnalysisRequest } from './analysis-result.ts';
import { Choice, chooseFiles, chooseTcp, chooseTerminal, chooseUnix, chooseWatches } from './analysis-choice.ts';
import type { ContainerFacts } from './container-facts.ts';
import { dockerRefusals } from './docker/source.ts';
import { estimateBytes } from './estimate.ts';
import { type HookMount, hookMountsOf } from './gpu/hook-mounts.ts';
import { unreachableSources } from './mount-reach.ts';
import type { NodeDeps } from './node-deps.ts';
import { chooseVolumes, measureVolumes, type VolumeChoice } from './pod-volumes.ts';
import { runtimeRefusals } from './runtime-refusals.ts';
import { orphanRefusals } from './shared-pids.ts';

/** Reads only; the workload runs on. What it finds may change until the freeze: CRIU has the last word. */
export async function analyzeContainer(
  deps: Pick<NodeDeps, 'run' | 'settings'>,
  facts: ContainerFacts,
  request: AnalysisRequest,
): Promise<Analysis> {
  const tree = facts.processes.filter((process) => !process.entered);
  const surveys = tree.map((process) => surveyProcess(process));
  const choice = new Choice();
  const warnings: string[] = [];
  const refusals = [
    ...surveys.flatMap((survey) => survey.refusals),
    ...(await runtimeRefusals(deps.run, facts, request.engine)),
    ...containerRefusals(facts, request),
  ];

  choice.flag('manage-cgroups-mode', 'the cgroup of a restored container is made by its runtime', 'ignore');
  const tcp = chooseTcp(facts, request, choice, warnings);
  await chooseUnix(deps, facts, surveys, { choice, warnings, refusals, subject: 'container' });
  await chooseWatches(deps, tree, { choice, warnings });
  const linked = chooseFiles(surveys, choice);
  const linkRemap = linked !== undefined;
  if (linked !== undefined && facts.upperDir === undefined) {
    refusals.push(
      `${linked.path} is open without its name: the snapshotter ${facts.record.snapshotter} has no directory in which ` +
        'CRIU could keep it; close the file or use the overlayfs snapshotter',
    );
  }
  chooseTerminal(facts, tree, choice);
  const usesGpu = surveys.some((survey) => survey.usesGpu);
  const hooks = usesGpu ? chooseHookMounts(facts, choice, refusals) : [];
  refusals.push(...engineRefusals(request, choice, { linkRemap, usesGpu }));
  const outside = request.imagesOnly === true ? NOTHING_OUTSIDE : await lookOutside(deps, facts, surveys, request);
  refusals.push(...outside.refusals);
  warnings.push(...containerWarnings(facts), ...outside.warnings);
  return {
    options: choice.options,
    runcFlags: choice.runcFlags,
    criuConfig: criuConfigText(choice.config)
      .split('\n')
      .filter((line) => line !== ''),
    linkRemap,
    ...tcp,
    hugePages: hugePagesOf(tree.map(({ hostPid }) => hostPid)),
    ...(hooks.length === 0 ? {} : { hookMounts: hooks }),
    gpuHolders: surveys.filter((survey) => survey.usesGpu).map(({ process }) => process.hostPid),
    ...(outside.volumes.length === 0 ? {} : { volumes: outside.volumes }),
    estimatedBytes: outside.bytes + (await estimateBytes(deps.run, facts, surveys)),
    warnings,
    refusals,
  };
}

interface Outside extends VolumeChoice {
  /** that the volumes hold */
  readonly bytes: number;
}

const NOTHING_OUTSIDE: Outside = { volumes: [], bytes: 0, refusals: [], warnings: [] };

/** What the container shares with others of its pod: directories, and perhaps a pid namespace. */
async function lookOutside(
  { run, settings }: Pick<NodeDeps, 'run' | 'settings'>,
  facts: ContainerFacts,
  surveys: readonly ProcessSurvey[],
  { captureVolumes }: AnalysisRequest,
): Promise<Outside> {
  const spec = parseSpec(facts.record.spec, 'specification of the container');
  const choice = chooseVolumes(facts, surveys, settings, captureVolumes);
  const { bytes, refusals } = await measureVolumes(run, choice.volumes, settings);
  return { ...choice, bytes, refusals: [...choice.refusals, ...refusals, ...orphanRefusals(facts, spec)] };
}

function chooseHookMounts(facts: ContainerFacts, choice: Choice, refusals: string[]): readonly HookMount[] {
  const found = hookMountsOf(facts);
  refusals.push(...found.refusals);
  for (const { destination } of found.mounts) {
    choice.configure('external', 'a hook mounted it: its content stays outside', `mnt[${destination}]:${destination}`);
  }
  return found.mounts;
}

function containerRefusals(facts: ContainerFacts, request: AnalysisRequest): string[] {
  const { namespace, id } = facts.ref;
  const spec = parseSpec(facts.record.spec, `specification of ${namespace}/${id}`);
  const refusals = [...userNamespaceReasons(spec), ...unreachableSources(spec), ...nestedRefusals(facts)];
  if (facts.docker !== undefined) {
    refusals.push(...dockerRefusals(facts.docker, request.after));
  }
  if (facts.foreignHostPids.length > 0) {
    refusals.push(
      `its cgroup ${facts.freezer.path} also holds processes of others (${facts.foreignHostPids.slice(0, 5).join(', ')}), ` +
        'which a freeze would stop: give the container a cgroup of its own',
    );
  }
  return refusals;
}

/** CRIU dumps mount and network namespaces below the container's, and none of these. Source: criu/namespaces.c (CLONE_SUBNS). */
const NEVER_NESTED = ['user', 'pid', 'ipc', 'uts', 'cgroup'] as const satisfies readonly NamespaceType[];

function nestedRefusals({ processes, initHostPid }: ContainerFacts): string[] {
  return processes
    .filter(({ entered }) => !entered)
    .flatMap(({ hostPid, command }) => {
      const nested = NEVER_NESTED.filter((type) => {
        const inode = namespaceInode(hostPid, type);
        return inode !== undefined && inode !== namespaceInode(initHostPid, type);
      });
      return nested.length === 0
        ? []
        : [
            `process ${hostPid} (${command}) made namespaces of its own inside (${nested.join(', ')}), which CRIU cannot dump: ` +
              'start the program without its sandbox, or end it for the checkpoint',
          ];
    });
}

/** containerd passes four flags on and no configuration. */
function engineRefusals(
  request: AnalysisRequest,
  choice: Choice,
  { linkRemap, usesGpu }: { readonly linkRemap: boolean; readonly usesGpu: boolean },
): string[] {
  if (request.engine === 'runc') {
    return [];
  }
  const needed = choice.config.filter(({ option }) => ['ghost-limit', 'tcp-close', 'irmap-scan-path'].includes(option));
  const missing = [...(linkRemap ? ['link-remap'] : []), ...needed.map(({ option }) => option)];
  return [
    ...missing.map((option) => `the engine "containerd" cannot pass ${option} to CRIU: use engine "runc"`),
    ...(usesGpu
      ? [
          'it uses a GPU, and the engine "containerd" cannot switch off CRIU\'s own cuda plugin, which would lock again ' +
            'what is saved: use engine "runc"',
        ]
      : []),
  ];
}

function containerWarnings(facts: ContainerFacts): string[] {
  const entered = facts.processes.filter((process) => process.entered);
  return entered.map(
    (process) =>
      `process ${process.hostPid} (${process.command}) came in by exec: it runs on, but is not part of the checkpoint`,
  );
}
