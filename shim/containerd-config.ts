/*
 * Kybernate's runtimes in containerd's configuration: a file of our own, and one entry in `imports` of the user's file.
 * That file is edited as text, in that one place, so that comments and order stay and taking the entry out again gives
 * back the very same bytes. Imported files are not migrated: ours is written in the version of the file that imports it.
 */
import { dirname, resolve } from 'node:path';
import { KybernateError } from '../core/errors.ts';

/** containerd 1.7 writes 2, 2.0 writes 3, 2.3 writes 4; 3 and 4 name CRI's plug-in the same. */
export const CONFIG_VERSIONS = [2, 3, 4] as const;
export type ConfigVersion = (typeof CONFIG_VERSIONS)[number];

/** Handlers that RuntimeClasses name. */
export const RUNTIME_HANDLERS = ['kybernate', 'kybernate-gpu'] as const;

const REMARK = '# kybernate';
const HEADER = /^[ \t]*\[{1,2}[^[\]\n]+\]{1,2}[ \t]*(?:#.*)?$/m;
const IMPORTS = /^([ \t]*imports[ \t]*=[ \t]*\[)([^\]]*)(\].*)$/m;
const STRING = /"((?:[^"\\\n]|\\.)*)"|'([^'\n]*)'/g;

/** What stands before the first table: `version` and `imports` are there. */
function topLevel(text: string): { readonly head: string; readonly rest: string } {
  const at = HEADER.exec(text)?.index ?? text.length;
  return { head: text.slice(0, at), rest: text.slice(at) };
}

/**
 * @param file for the message
 * @throws Incompatible a version that has no place for our runtimes
 */
export function configVersion(text: string, file: string): ConfigVersion {
  const found = /^[ \t]*version[ \t]*=[ \t]*(\d+)/m.exec(topLevel(text).head)?.[1];
  const version = CONFIG_VERSIONS.find((known) => String(known) === found);
  if (version === undefined) {
    throw new KybernateError(
      'Incompatible',
      `${file} is of version ${found ?? '1 (it names none)'}; runtimes can be added to versions ` +
        `${CONFIG_VERSIONS.join(', ')}: \`containerd config migrate\` prints it in the present one`,
    );
  }
  return version;
}

/** Does some runtime of the file put containers below systemd? Ours must then do the same, as kubelet expects. */
export function usesSystemdCgroup(text: string): boolean {
  return /^[ \t]*SystemdCgroup[ \t]*=[ \t]*true\b/m.test(text);
}

export interface RuntimeOptions {
  /** absolute path of `containerd-shim-kybernate-v1` */
  readonly launcher: string;
  readonly systemdCgroup: boolean;
}

/** The file of our own. */
export function runtimesConfig(version: ConfigVersion, { launcher, systemdCgroup }: RuntimeOptions): string {
  const plugin = version === 2 ? 'io.containerd.grpc.v1.cri' : 'io.containerd.cri.v1.runtime';
  const tables = RUNTIME_HANDLERS.map((handler) => {
    const table = `plugins."${plugin}".containerd.runtimes.${handler}`;
    // The stock type with a path of our own: options are typed by it, and every feature of runc stays known.
    const lines = [
      `[${table}]`,
      '  runtime_type = "io.containerd.runc.v2"',
      `  runtime_path = ${JSON.stringify(launcher)}`,
      '  pod_annotations = ["kybernate.io/*"]',
    ];
    return [...lines, ...(systemdCgroup ? [`  [${table}.options]`, '    SystemdCgroup = true'] : [])].join('\n');
  });
  const note = '# Written by `kybernate runtime install`, removed by `kybernate runtime uninstall`.';
  return `${note}\nversion = ${version}\n\n${tables.join('\n\n')}\n`;
}

/** What a machine without a configuration of containerd's gets; containerd 1.7 and 2 both read it. */
export function minimalConfig(dropIn: string): string {
  return `version = 2\nimports = [${JSON.stringify(dropIn)}] ${REMARK}\n`;
}

function importsOf(list: string): string[] {
  return [...list.matchAll(STRING)].map((match) => match[1] ?? match[2] ?? '');
}

function covers(pattern: string, file: string, configFile: string): boolean {
  const path = resolve(dirname(configFile), pattern);
  return path === file || path === `${dirname(file)}/*.toml` || path === `${dirname(file)}/*`;
}

/**
 * The user's file with our file among its imports; the same text when it is there already.
 * @throws Incompatible `imports` is written in a way that is not understood
 */
export function withImport(text: string, dropIn: string, configFile: string): string {
  const { head, rest } = topLevel(text);
  const match = IMPORTS.exec(head);
  if (match === null) {
    if (/^[ \t]*imports\b/m.test(head)) {
      throw new KybernateError(
        'Incompatible',
        `${configFile}: imports is not understood; add ${JSON.stringify(dropIn)} to it by hand`,
      );
    }
    return `imports = [${JSON.stringify(dropIn)}] ${REMARK}\n${text}`;
  }
  const [whole, open = '', list = '', close = ''] = match;
  if (importsOf(list).some((pattern) => covers(pattern, dropIn, configFile))) {
    return text;
  }
  const trimmed = list.trimEnd();
  // No space after a comma that was there: `withoutImport` tells it by that from one of ours.
  const separator = trimmed === '' || trimmed.endsWith(',') ? '' : ', ';
  const entry = `${separator}${JSON.stringify(dropIn)}`;
  const next = `${open}${trimmed}${entry}${list.slice(trimmed.length)}${close}`;
  return `${head.slice(0, match.index)}${next}${head.slice(match.index + whole.length)}${rest}`;
}

/** Takes out what `withImport` has put in; another text stays as it is. */
export function withoutImport(text: string, dropIn: string): string {
  const quoted = JSON.stringify(dropIn);
  const line = `imports = [${quoted}] ${REMARK}\n`;
  if (text.startsWith(line)) {
    return text.slice(line.length);
  }
  const { head, rest } = topLevel(text);
  const match = IMPORTS.exec(head);
  if (match === null || !(match[2] ?? '').includes(quoted)) {
    return text;
  }
  const [whole, open = '', list = '', close = ''] = match;
  const next = list.replace(list.includes(`, ${quoted}`) ? `, ${quoted}` : quoted, '');
  return `${head.slice(0, match.index)}${open}${next}${close}${head.slice(match.index + whole.length)}${rest}`;
}
