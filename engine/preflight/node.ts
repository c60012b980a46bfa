/* The node that a checkpoint was taken on against the one that is to run it. Pure: both are given. */
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import type { NodeFacts } from '../../core/contract/checkpoint.ts';
import { caution, type Finding, notRecorded, problem } from '../../core/preflight.ts';
import { compareVersions, MIN_CRIU_VERSION } from '../../native/criu/version.ts';
import { MIN_RUNC_VERSION } from '../../native/runc/runc.ts';

/** @param was where the checkpoint was taken */
export function nodeFindings(was: Metadata['node'], is: NodeFacts): Finding[] {
  const findings: Finding[] = [];
  if (was.arch !== is.arch) {
    const message = `it was taken on ${was.arch}, ${is.node} is ${is.arch}`;
    findings.push(problem('arch', message, { recorded: was.arch, here: is.arch }));
  } else {
    findings.push(...cpuFindings(was, is));
  }
  if (isOlder(is.kernel, was.kernel)) {
    const message = `the kernel ${is.kernel} is older than ${was.kernel}, under which it was taken`;
    findings.push(problem('kernel', message, { recorded: was.kernel, here: is.kernel }));
  }
  if (isOlder(is.criuVersion, was.criuVersion)) {
    const message = `CRIU ${is.criuVersion} is older than ${was.criuVersion}, which wrote the images`;
    findings.push(problem('criu', message, { recorded: was.criuVersion, here: is.criuVersion }));
  }
  if (was.cgroupVersion !== is.cgroupVersion) {
    const message = `it was taken under cgroup v${was.cgroupVersion}, ${is.node} has cgroup v${is.cgroupVersion}`;
    const compared = { recorded: `v${was.cgroupVersion}`, here: `v${is.cgroupVersion}` };
    findings.push(problem('cgroup-version', message, compared));
  }
  return findings;
}

export function criuTooOld(version: string): Finding[] {
  return compareVersions(version, MIN_CRIU_VERSION) < 0
    ? [
        problem('criu', `CRIU ${version} is too old: ${MIN_CRIU_VERSION} is needed; \`kybernate setup\` installs it`, {
          here: version,
        }),
      ]
    : [];
}

/** Of the engine `runc`: the other one leaves the options to the container's own runtime. */
export function runcTooOld(version: string): Finding[] {
  return compareVersions(version, MIN_RUNC_VERSION) < 0
    ? [
        problem(
          'programs',
          `runc ${version} of the node worker is too old: ${MIN_RUNC_VERSION} is needed to checkpoint a container, ` +
            'whatever runc the container has; `kybernate setup` installs it',
          { here: version },
        ),
      ]
    : [];
}

/** XSAVE areas are multiples of this; less is padding of another kernel. */
const STATE_STEP_BYTES = 64;

function cpuFindings(was: Metadata['node'], is: NodeFacts): Finding[] {
  const findings: Finding[] = [];
  const missing = missingCpuFlags(was.cpuFlags, is.cpuFlags);
  if (missing.length > 0) {
    const message = `the processor (${is.cpuModel}) lacks ${missing.join(', ')}, which ${was.cpuModel} had`;
    findings.push(problem('cpu-features', message, { recorded: was.cpuModel, here: is.cpuModel }));
  }
  if (was.cpuVendor === undefined) {
    findings.push(notRecorded('cpu-vendor'));
  } else if (is.cpuVendor !== undefined && was.cpuVendor !== is.cpuVendor) {
    const message = `it was taken on a processor of ${was.cpuVendor}, that of ${is.node} is of ${is.cpuVendor}`;
    findings.push(caution('cpu-vendor', message, { recorded: was.cpuVendor, here: is.cpuVendor }));
  }
  return [...findings, ...stateFindings(was.signalFrameBytes, is)];
}

/** A smaller area cannot take what the images hold; a larger one may not fit a signal stack that a program sized. */
function stateFindings(wasBytes: number | undefined, is: NodeFacts): Finding[] {
  if (wasBytes === undefined) {
    return [notRecorded('cpu-state')];
  }
  const isBytes = is.signalFrameBytes;
  if (isBytes === undefined || Math.abs(isBytes - wasBytes) < STATE_STEP_BYTES) {
    return [];
  }
  const compared = { recorded: `${wasBytes} bytes`, here: `${isBytes} bytes` };
  const message = `the processor state takes ${isBytes} bytes of a signal frame on ${is.node}, at the dump ${wasBytes}`;
  return [
    isBytes < wasBytes
      ? problem('cpu-state', `${message}: it does not hold all that was saved`, compared)
      : caution('cpu-state', `${message}: an alternate signal stack of the minimal size is too small here`, compared),
  ];
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

function isOlder(version: string, than: string): boolean {
  return compareVersions(majorMinor(version), majorMinor(than)) < 0;
}

function majorMinor(version: string): string {
  return /^\d+(?:\.\d+)?/.exec(version)?.[0] ?? '0';
}

/** The security module of a node, and what it would confine processes with. */
export interface LsmHere {
  readonly kind: 'none' | 'apparmor' | 'selinux';
  /** AppArmor profiles that are loaded; absent: they cannot be read */
  readonly profiles?: ReadonlySet<string>;
}

/** @param was `security` of the metadata */
export function lsmFindings(was: Metadata['security'], is: LsmHere): Finding[] {
  if (was === undefined) {
    return [notRecorded('lsm')];
  }
  if (was.lsm === 'none' || was.label === 'unconfined') {
    return [];
  }
  const compared = { recorded: `${was.lsm}: ${was.label}`, here: is.kind };
  if (is.kind !== was.lsm) {
    const here = is.kind === 'none' ? 'no security module' : is.kind;
    return [problem('lsm', `its processes run under ${was.lsm} as ${was.label}, this node has ${here}`, compared)];
  }
  if (is.kind !== 'apparmor') {
    return [];
  }
  if (is.profiles === undefined) {
    return [caution('lsm', `whether the AppArmor profile ${was.label} is loaded cannot be read`, compared)];
  }
  return is.profiles.has(was.label)
    ? []
    : [problem('lsm', `the AppArmor profile ${was.label} is not loaded on this node`, compared)];
}
