/*
 * The part of the OCI runtime specification that a restore reads or changes. Loosely typed on purpose: every field may
 * be absent, and what is not named here travels through unchanged.
 * Source: opencontainers/runtime-spec, config.md and config-linux.md, version 1.3.
 */
import { KybernateError, messageOf } from '../errors.ts';

export interface OciMount {
  readonly destination: string;
  readonly type?: string;
  readonly source?: string;
  readonly options?: readonly string[];
}

export interface OciNamespace {
  readonly type: string;
  /** joined instead of made when present */
  readonly path?: string;
}

export interface OciDevice {
  readonly path: string;
  readonly type: string;
  readonly major?: number;
  readonly minor?: number;
}

export interface OciDeviceRule {
  readonly allow: boolean;
  readonly type?: string;
  readonly major?: number;
  readonly minor?: number;
  readonly access?: string;
}

/** In bytes; zero and less mean no limit. */
export interface OciMemory {
  readonly limit?: number;
  /** memory and swap together */
  readonly swap?: number;
}

export interface OciIdMapping {
  readonly containerID: number;
  readonly hostID: number;
  readonly size: number;
}

export interface OciHook {
  readonly path: string;
  readonly args?: readonly string[];
}

export interface OciProcess {
  readonly terminal?: boolean;
  readonly env?: readonly string[];
  readonly args?: readonly string[];
}

export interface OciLinux {
  readonly namespaces?: readonly OciNamespace[];
  readonly uidMappings?: readonly OciIdMapping[];
  readonly gidMappings?: readonly OciIdMapping[];
  readonly devices?: readonly OciDevice[];
  readonly cgroupsPath?: string;
  readonly resources?: { readonly devices?: readonly OciDeviceRule[]; readonly memory?: OciMemory };
  readonly maskedPaths?: readonly string[];
  readonly readonlyPaths?: readonly string[];
}

export interface OciSpec {
  readonly process?: OciProcess;
  readonly root?: { readonly path: string; readonly readonly?: boolean };
  readonly hostname?: string;
  readonly mounts?: readonly OciMount[];
  /** kind of hook (`prestart`, `createRuntime`, ...) to its hooks, in order */
  readonly hooks?: Readonly<Record<string, readonly OciHook[]>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly linux?: OciLinux;
}

/**
 * @param text content of a bundle's config.json
 * @param origin path of the file, for the message
 * @throws InvalidInput it is no JSON object
 */
export function parseSpec(text: string, origin: string): OciSpec {
  let parsed: unknown;
  try {
    parsed = parseExactly(text);
  } catch (error) {
    throw new KybernateError('InvalidInput', `${origin} is not JSON: ${messageOf(error)}`, { cause: error });
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw new KybernateError('InvalidInput', `${origin} is not a JSON object`);
  }
  return parsed;
}

/** As `parseSpec` read it, to the last digit. */
export function specText(spec: OciSpec): string {
  return JSON.stringify(spec);
}

/** Since V8 11.4; not in the library of this TypeScript. Source: the proposal "JSON.parse source text access". */
interface ExactJson {
  parse(text: string, revive: (key: string, value: unknown, context: { readonly source?: string }) => unknown): unknown;
  rawJSON(text: string): unknown;
}

/**
 * An unlimited rlimit is 2^64 - 1, which a number of JavaScript rounds up to what Go refuses: such integers stay as they
 * are written. Nothing that is read here by name is one.
 */
function parseExactly(text: string): unknown {
  const json = JSON as unknown as ExactJson;
  return json.parse(text, (_key, value, { source = '' }) =>
    typeof value === 'number' && !Number.isSafeInteger(value) && /^-?\d+$/.test(source) ? json.rawJSON(source) : value,
  );
}

/** How a container stands to one namespace type: `host` shares the host's, `own` made one, `joined` was given a path. */
export type NamespaceKind = 'host' | 'own' | 'joined';

export function namespaceKind(spec: OciSpec, type: string): NamespaceKind {
  const found = spec.linux?.namespaces?.find((namespace) => namespace.type === type);
  if (found === undefined) {
    return 'host';
  }
  return namespacePath(spec, type) === undefined ? 'own' : 'joined';
}

/** Path of a namespace that the container joins; undefined when it makes its own or shares the host's. */
export function namespacePath(spec: OciSpec, type: string): string | undefined {
  const path = spec.linux?.namespaces?.find((namespace) => namespace.type === type)?.path;
  return path === undefined || path === '' ? undefined : path;
}

/** runc's own test: a bind mount is one by its options, whatever its type says. */
export function isBind(mount: OciMount): boolean {
  return mount.type === 'bind' || (mount.options ?? []).some((option) => option === 'bind' || option === 'rbind');
}

/** Host paths that the specification binds into the container, in order. */
export function bindSources(spec: OciSpec): readonly string[] {
  return (spec.mounts ?? []).filter(isBind).flatMap((mount) => (mount.source === undefined ? [] : [mount.source]));
}
