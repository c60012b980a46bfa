/*
 * What the processes of a tree hold that decides how CRIU is called by its RPC, and every reason why it cannot be called,
 * before anything is touched. What containers have in common with it: analysis-choice.ts.
 */
import { KybernateError } from '../core/errors.ts';
import { hugePagesOf } from '../native/proc/huge-pages.ts';
import { readMaps } from '../native/proc/maps.ts';
import { namespaceInode, type NamespaceType } from '../native/proc/ns.ts';
import { listProcesses } from '../native/proc/tree.ts';
import type { Analysis } from './analysis-result.ts';
import { Choice, chooseFiles, chooseTcp, chooseTerminal, chooseUnix, chooseWatches } from './analysis-choice.ts';
import { surveyProcess, type ProcessSurvey } from './analysis-process.ts';
import type { ContainerFacts } from './container-facts.ts';
import { estimateBytes } from './estimate.ts';
import type { NodeDeps } from './node-deps.ts';

export interface TreeAnalysis extends Analysis {
  readonly surveys: readonly ProcessSurvey[];
}

type Tree = NonNullable<ContainerFacts['tree']>;

/** Reads only. What it finds may change until the freeze: CRIU has the last word. */
export async function analyzeTree(
  deps: Pick<NodeDeps, 'run'>,
  facts: ContainerFacts,
  request: { readonly tcp: 'keep' | 'close'; readonly after: 'resume' | 'hold' | 'stop' },
): Promise<TreeAnalysis> {
  const tree = treeOf(facts);
  const live = facts.processes.filter(({ state }) => state !== 'Z');
  const surveys = live.map((process) => surveyProcess(process, 'process'));
  const choice = new Choice();
  const warnings: string[] = [];
  const refusals = [
    ...surveys.flatMap((survey) => survey.refusals),
    ...namespaceRefusals(facts),
    ...memoryRefusals(facts),
    ...gpuRefusals(surveys),
    ...terminalRefusals(facts, tree),
  ];
  choice.flag('manage-cgroups-mode', 'the processes come back in the cgroup of who restores them', 'ignore');
  const tcp = chooseTcp(facts, { ...request, engine: 'runc' }, choice, warnings);
  await chooseUnix(deps, facts, surveys, { choice, warnings, refusals, subject: 'process' });
  await chooseWatches(deps, live, { choice, warnings });
  const linked = chooseFiles(surveys, choice);
  if (linked !== undefined) {
    refusals.push(
      `${linked.path} is open, has lost its name and lives on under another one: CRIU would leave a link beside it that ` +
        'nobody keeps for the restore; remove its other name, or close it',
    );
  }
  chooseTerminal(facts, live, choice);
  warnings.push(...outsideWarnings(tree));
  return {
    options: choice.options,
    runcFlags: [],
    criuConfig: [],
    linkRemap: false,
    ...tcp,
    hugePages: hugePagesOf(live.map(({ hostPid }) => hostPid)),
    gpuHolders: surveys.filter((survey) => survey.usesGpu).map(({ process }) => process.hostPid),
    estimatedBytes: await estimateBytes(deps.run, facts, surveys),
    warnings,
    refusals,
    surveys,
  };
}

export function treeOf({ tree, ref }: ContainerFacts): Tree {
  if (tree === undefined) {
    throw new KybernateError('Internal', `${ref.namespace}/${ref.id} is no tree of processes`);
  }
  return tree;
}

/** Others must not share a namespace that CRIU takes along; those that it cannot make without a runtime must be ours. */
function namespaceRefusals(facts: ContainerFacts): string[] {
  const { initHostPid, processes } = facts;
  const tree = treeOf(facts);
  const refusals: string[] = [];
  for (const type of ['pid', 'mnt', 'user', 'cgroup'] satisfies NamespaceType[]) {
    if (namespaceInode(initHostPid, type) !== namespaceInode('self', type)) {
      refusals.push(
        `process ${initHostPid} has another ${type} namespace than the node: if it belongs to a container, checkpoint ` +
          'that (`kybernate checkpoint <container>`); else checkpoint a process of the host',
      );
    }
  }
  const types = [...new Set<NamespaceType>(['pid', 'mnt', 'user', 'cgroup', 'net', 'ipc', 'uts'])];
  for (const { hostPid, command } of processes) {
    const nested = types.filter((type) => {
      const inode = namespaceInode(hostPid, type);
      return inode !== undefined && inode !== namespaceInode(initHostPid, type);
    });
    if (nested.length > 0) {
      refusals.push(
        `process ${hostPid} (${command}) is in namespaces of its own (${nested.join(', ')}) below process ${initHostPid}: ` +
          'checkpoint it alone, or its container',
      );
    }
  }
  if (tree.ownNamespaces.length > 0) {
    refusals.push(...sharedNamespaces(facts, tree));
  }
  return refusals;
}

function sharedNamespaces({ initHostPid, processes }: ContainerFacts, tree: Tree): string[] {
  const inside = new Set(processes.map(({ hostPid }) => hostPid));
  const others = listProcesses().filter(({ hostPid }) => !inside.has(hostPid));
  return tree.ownNamespaces.flatMap((type) => {
    const inode = namespaceInode(initHostPid, type as NamespaceType);
    const other = others.find(({ hostPid }) => namespaceInode(hostPid, type as NamespaceType) === inode);
    return other === undefined
      ? []
      : [
          `process ${initHostPid} shares its ${type} namespace with process ${other.hostPid} (${other.command}) outside of ` +
            'the tree: checkpoint a common parent, or the container that both are in',
        ];
  });
}

/** System V memory belongs to the IPC namespace, which CRIU takes along only as a whole. */
function memoryRefusals(facts: ContainerFacts): string[] {
  if (treeOf(facts).ownNamespaces.includes('ipc')) {
    return [];
  }
  return facts.processes.flatMap(({ hostPid, command }) =>
    readMaps(hostPid).some(({ path }) => /^\/SYSV[0-9a-f]{8}$/.test(path))
      ? [
          `process ${hostPid} (${command}) has System V shared memory of the host attached, which CRIU cannot dump: use ` +
            'POSIX shared memory, or start it in an IPC namespace of its own (unshare --ipc)',
        ]
      : [],
  );
}

function gpuRefusals(surveys: readonly ProcessSurvey[]): string[] {
  return surveys
    .filter(({ usesGpu }) => usesGpu)
    .map(
      ({ process }) =>
        `process ${process.hostPid} (${process.command}) uses a GPU: the GPU state of a container is captured, that of a ` +
        'process outside of one is not; run it in a container',
    );
}

function terminalRefusals({ processes, initHostPid }: ContainerFacts, tree: Tree): string[] {
  const root = processes[0];
  return tree.terminal && root?.sessionHostPid === initHostPid && root.ttyDevice !== 0
    ? [
        `process ${initHostPid} (${root.command}) leads the session of a terminal that is held from outside of the tree: ` +
          'checkpoint the program that runs in it, not the shell; or the terminal program (tmux, screen) as a whole',
      ]
    : [];
}

function outsideWarnings(tree: Tree): string[] {
  const pipes = tree.pipes.map(
    ({ key, fd, write }) =>
      `descriptor ${fd} ${write ? 'writes to' : 'reads from'} ${key}, whose other end is outside of the tree: after a ` +
      `restore it is ${fd <= 2 ? 'what the restore is told, else /dev/null' : '/dev/null'}`,
  );
  return tree.terminal
    ? [...pipes, 'its terminal is held from outside: it is restored on a terminal, attached (process restore --attach)']
    : pipes;
}
