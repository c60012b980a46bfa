/* Options that several commands share, and the parsers of their values. */
import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import type { CheckpointRequest } from '../core/contract/checkpoint.ts';
import { parseDuration } from './units.ts';

export function jsonOption(): Option {
  return new Option('--json', 'print one JSON document on stdout and nothing else');
}

/** @throws InvalidArgumentError, which commander puts behind the name of the flag */
export function durationArgument(text: string): number {
  const ms = parseDuration(text);
  if (ms === undefined || ms < 1) {
    throw new InvalidArgumentError('Give a number and a unit: 500ms, 60s, 5m, 2h.');
  }
  return ms;
}

/** A whole number from 1. */
export function countArgument(text: string): number {
  const count = Number(text);
  if (!Number.isSafeInteger(count) || count < 1) {
    throw new InvalidArgumentError('Give a whole number from 1.');
  }
  return count;
}

/** Collects `--label k=v`, given any number of times. */
export function labelArgument(text: string, previous: Readonly<Record<string, string>> = {}): Record<string, string> {
  const at = text.indexOf('=');
  if (at < 1) {
    throw new InvalidArgumentError('Give a name and a value: team=search.');
  }
  return { ...previous, [text.slice(0, at)]: text.slice(at + 1) };
}

/** Collects the names of an option that is given any number of times. */
export function nameArgument(text: string, previous: readonly string[] = []): string[] {
  return [...previous, text];
}

/** Collects `--gpu <from>=<to>`, given any number of times. */
export function gpuPairArgument(
  text: string,
  previous: ReadonlyArray<{ from: string; to: string }> = [],
): Array<{ from: string; to: string }> {
  const [from, to, ...rest] = text.split('=');
  if (!from || !to || rest.length > 0) {
    throw new InvalidArgumentError('Give two UUIDs as `kybernate gpu list` shows them: GPU-…=GPU-….');
  }
  return [...previous, { from, to }];
}

/** A program and its arguments: words, or a JSON array where an argument holds a blank. No shell is involved. */
export function programArgument(text: string): string[] {
  if (!text.trimStart().startsWith('[')) {
    return text.split(/\s+/).filter((word) => word !== '');
  }
  const words = parseArray(text);
  if (words === undefined) {
    throw new InvalidArgumentError('Give words, or a JSON array of strings: ["python3", "-c", "…"].');
  }
  return words;
}

function parseArray(text: string): string[] | undefined {
  try {
    const value = JSON.parse(text) as unknown;
    return Array.isArray(value) && value.every((word) => typeof word === 'string') ? value : undefined;
  } catch {
    // Only JSON.parse can throw here, and what it says of a shell's quoting helps nobody.
    return undefined;
  }
}

/** A probe as `kubectl get pod -o jsonpath=…` prints it; nothing where the container has none, which is `none` here. */
export function livenessArgument(text: string): NonNullable<CheckpointRequest['livenessProbe']> | 'none' {
  if (text.trim() === '') {
    return 'none';
  }
  const probe = parseObject(text);
  if (probe === undefined) {
    throw new InvalidArgumentError('Give the probe of the pod as JSON: {"periodSeconds":10,"failureThreshold":3}.');
  }
  // What it asks and how is none of our business.
  const { periodSeconds, timeoutSeconds, failureThreshold } = probe;
  return withoutUndefined({ periodSeconds, timeoutSeconds, failureThreshold }) as object;
}

function parseObject(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value = JSON.parse(text) as unknown;
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : undefined;
  } catch {
    // Only JSON.parse can throw here.
    return undefined;
  }
}

export interface PodArgument {
  readonly namespace: string;
  readonly name: string;
  readonly container: string;
}

export function podArgument(text: string): PodArgument {
  const [namespace, name, container, ...rest] = text.split('/');
  if (!namespace || !name || !container || rest.length > 0) {
    throw new InvalidArgumentError('Give namespace/pod/container.');
  }
  return { namespace, name, container };
}

export interface HelpTexts {
  /** command line and what it does */
  readonly examples: ReadonlyArray<readonly [line: string, what: string]>;
  /** from `exitCodesHelp` */
  readonly exitCodes: string;
}

/** Examples and exit codes below the list of options. */
export function addHelpTexts(command: Command, texts: HelpTexts): void {
  const examples = texts.examples.map(([line, what]) => `  $ ${line}\n      ${what}`);
  command.addHelpText('after', ['', 'Examples:', ...examples, texts.exitCodes].join('\n'));
}

/** Drops the keys whose value is undefined, which JSON and exact optional properties do not have. */
export function withoutUndefined<T extends object>(value: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined)) as {
    [K in keyof T]: Exclude<T[K], undefined>;
  };
}
