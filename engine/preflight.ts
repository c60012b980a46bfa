/*
 * What is checked before anything is touched: on the source before its freeze, on the target before a container is made.
 * Every reason is collected, so that a person corrects them in one go.
 */
import { freemem } from 'node:os';
import type { Metadata } from '../core/checkpoint/metadata.ts';
import type { NodeFacts } from '../core/contract/checkpoint.ts';
import { KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import { compareVersions, MIN_CRIU_VERSION } from '../native/criu/version.ts';
import { locateProgram } from '../native/runc/runc.ts';
import type { Analysis } from './analysis.ts';
import type { ContainerFacts } from './container-facts.ts';
import { canLockByNftables, probeNodeFacts } from './facts.ts';
import type { GpuFindings } from './gpu/analysis.ts';
import type { NodeDeps } from './node-deps.ts';

/** What runc, CRIU and tar take for themselves beside the workload, roughly. */
const MIN_FREE_MEMORY_BYTES = 64 * 1024 * 1024;

const PROGRAMS: Readonly<Record<string, string>> = {
  tar: 'package tar',
  nsenter: 'package util-linux',
  nft: 'package nftables',
};

/**
 * May this container be captured on this node? Disk is not looked at here: that is a reservation of the plan.
 * @throws GpuUnsupported the driver cannot save it; Incompatible otherwise; each with every reason in `details.reasons`.
 * Nothing was touched.
 */
export async function checkSource(
  deps: NodeDeps,
  source: {
    readonly facts: ContainerFacts;
    readonly analysis: Analysis;
    readonly gpu: GpuFindings;
    readonly nodeFacts: NodeFacts;
  },
): Promise<void> {
  const { facts, analysis, gpu, nodeFacts } = source;
  const name = `container ${facts.ref.namespace}/${facts.ref.id} on ${deps.settings.node}`;
  const reasons = [
    ...gpu.unsupported,
    ...gpu.refusals,
    ...analysis.refusals,
    ...criuTooOld(nodeFacts.criuVersion),
    ...(await missingPrograms(deps)),
    ...(await missingNetworkLock(deps, analysis)),
    ...tooLittleMemory(),
  ];
  if (reasons.length > 0) {
    throw new KybernateError(
      gpu.unsupported.length > 0 ? 'GpuUnsupported' : 'Incompatible',
      `${name} cannot be checkpointed: ${reasons.join('; ')}; the container was not touched`,
      { details: { reasons } },
    );
  }
}

export interface RestoreTarget {
  readonly op: Op;
  /** the container to be made, in whose namespace the image's layers must be */
  readonly container?: { readonly namespace: string; readonly id: string };
}

/**
 * May this checkpoint run on this node? Mounts and namespaces are compared by core/oci/restore-plan.ts.
 * @returns every reason why not; empty when it may
 */
export async function checkRestoreTarget(
  deps: NodeDeps,
  metadata: Metadata,
  target: RestoreTarget,
): Promise<readonly string[]> {
  const here = await probeNodeFacts(deps);
  target.op.signal.throwIfAborted();
  return [
    ...criuTooOld(here.criuVersion),
    ...nodeReasons(metadata.node, here),
    ...(await missingPrograms(deps)),
    ...(await missingParent(deps, metadata, target)),
  ];
}

/** @param was where the checkpoint was taken */
export function nodeReasons(was: Metadata['node'], is: NodeFacts): string[] {
  if (was.arch !== is.arch) {
    return [`it was taken on ${was.arch}, ${is.node} is ${is.arch}`];
  }
  const reasons: string[] = [];
  const missing = missingCpuFlags(was.cpuFlags, is.cpuFlags);
  if (missing.length > 0) {
    reasons.push(`the processor (${is.cpuModel}) lacks ${missing.join(', ')}, which ${was.cpuModel} had`);
  }
  if (compareVersions(majorMinor(is.kernel), majorMinor(was.kernel)) < 0) {
    reasons.push(`the kernel ${is.kernel} is older than ${was.kernel}, under which it was taken`);
  }
  if (compareVersions(majorMinor(is.criuVersion), majorMinor(was.criuVersion)) < 0) {
    reasons.push(`CRIU ${is.criuVersion} is older than ${was.criuVersion}, which wrote the images`);
  }
  if (was.cgroupVersion !== is.cgroupVersion) {
    reasons.push(`it was taken under cgroup v${was.cgroupVersion}, ${is.node} has cgroup v${is.cgroupVersion}`);
  }
  return reasons;
}

/**
 * Instruction sets that a program finds by CPUID and keeps using. Everything else in /proc/cpuinfo describes the
 * machine or the kernel's own defences. Source: arch/x86/include/asm/cpufeatures.h.
 */
const X86_INSTRUCTIONS =
  /^(?:sse\w*|ssse3|pni|avx\w*|fma\w*|f16c|bmi\d|abm|aes|vaes|pclmulqdq|vpclmulqdq|gfni|sha_ni|sha512|sm[34]|popcnt|movbe|adx|rdrand|rdseed|xsave\w*|amx_\w*|fsgsbase|lahf_lm|cx16|clwb|clflushopt|rdpid|rdtscp|pku|ospke|waitpkg|movdiri|movdir64b|serialize|3dnowprefetch|rtm|hle|tbm|xop|user_shstk)$/;

/** On arm64 every flag is one of instructions. */
export function missingCpuFlags(was: readonly string[], is: readonly string[]): string[] {
  const present = new Set(is);
  const x86 = was.includes('fxsr');
  return was.filter((flag) => !present.has(flag) && (!x86 || X86_INSTRUCTIONS.test(flag)));
}

function majorMinor(version: string): string {
  return /^\d+(?:\.\d+)?/.exec(version)?.[0] ?? '0';
}

function criuTooOld(version: string): string[] {
  return compareVersions(version, MIN_CRIU_VERSION) < 0
    ? [`CRIU ${version} is too old: ${MIN_CRIU_VERSION} is needed; \`kybernate setup\` installs it`]
    : [];
}

async function missingPrograms(deps: NodeDeps): Promise<string[]> {
  const found = await Promise.all(
    Object.entries(PROGRAMS).map(async ([name, from]) =>
      (await locateProgram(name, deps.settings.programPath)) === undefined
        ? [`${name} is not installed (${from})`]
        : [],
    ),
  );
  return found.flat();
}

async function missingNetworkLock(deps: NodeDeps, analysis: Analysis): Promise<string[]> {
  return analysis.networkLock === 'nftables' && !(await canLockByNftables(deps))
    ? [
        'it has TCP sockets, and this CRIU cannot lock connections by nftables: build CRIU with libnftables, or use tcp: close',
      ]
    : [];
}

function tooLittleMemory(): string[] {
  const freeBytes = freemem();
  return freeBytes < MIN_FREE_MEMORY_BYTES
    ? [`the node has ${freeBytes} bytes of memory left, ${MIN_FREE_MEMORY_BYTES} are needed`]
    : [];
}

/** Which layer the restored container's own lies on: without it the root file system would be another one. */
async function missingParent(deps: NodeDeps, metadata: Metadata, target: RestoreTarget): Promise<string[]> {
  const { snapshotter, parent } = metadata.rootfs;
  if (snapshotter === undefined || parent === undefined) {
    return [];
  }
  const namespace = target.container?.namespace ?? metadata.container.namespace;
  const found = await deps.containerd.statSnapshot(namespace, snapshotter, parent);
  if (found !== undefined) {
    return [];
  }
  const image = metadata.container.image;
  const pull = image === undefined ? '' : `; pull ${image.ref} (${image.digest}) on ${deps.settings.node} first`;
  return [`the image layer ${parent} is not in snapshotter ${snapshotter}, namespace ${namespace}${pull}`];
}
