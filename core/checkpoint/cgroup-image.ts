/*
 * CRIU's cgroup.img with the directories that a restore by others needs. Our dumps leave cgroups to the runtime (mode
 * `ignore`): the image has the hierarchies and the paths of the processes in them, and no directory. Podman and containerd
 * restore in runc's default mode, `soft`. There runc puts CRIU into the cgroup of the new container and names that one
 * as the new root of each hierarchy, but CRIU replaces the root of a process only where a directory of the image begins its
 * path. Without one it goes for the path of the source ("Can't move 1 into unified//…/cgroup.procs"), which the new
 * host has not, or has with somebody else in it.
 *
 *   CgroupEntry { 1: sets of { 1: id, 2: members of { 1: controller, 2: path } },
 *                 2: controllers of { 1: names, 2: directories of { 1: name, 2: directories below } } }
 *   A member of the unified hierarchy (cgroup v2, and beside v1 in systemd's hybrid form) has an empty name.
 *   Source: criu, images/cgroup.proto and criu/cgroup.c (collect_cgroups, rewrite_cgsets); runc, criuApplyCgroups.
 */
import { decodeFields, encodeFields, type Fields } from './criu-image.ts';

const HEADER_BYTES = 12;

/** The same bytes where directories are listed already, or where it is no such image. */
export function withCgroupDirectories(image: Uint8Array): Uint8Array {
  const entry = image.length > HEADER_BYTES ? decodeFields(image.subarray(HEADER_BYTES)) : undefined;
  const controllers = entry === undefined ? [] : messagesIn(entry, 2);
  if (entry === undefined || controllers.length === 0 || controllers.some((controller) => controller.has(2))) {
    return image;
  }
  const members = messagesIn(entry, 1).flatMap((set) => messagesIn(set, 2));
  const listed = controllers.map((controller) => {
    const names = textsIn(controller, 1);
    const paths = members
      .filter((member) => isOf(names, textsIn(member, 1)[0] ?? ''))
      .flatMap((member) => textsIn(member, 2));
    return encodeFields(new Map([...controller, [2, directories(paths)]]));
  });
  const message = encodeFields(new Map([...entry, [2, listed]]));
  const header = Uint8Array.from(image.subarray(0, HEADER_BYTES));
  new DataView(header.buffer).setUint32(8, message.length, true);
  return Uint8Array.from([...header, ...message]);
}

/** A member names all controllers of a hierarchy at once: `cpu,cpuacct`. */
function isOf(controllers: readonly string[], member: string): boolean {
  const names = member.split(',');
  return controllers.length > 0 && controllers.every((name) => names.includes(name));
}

/** Nested, as CRIU lists them: it gives every outer one the new root, and what is below keeps its place there. */
function directories(paths: readonly string[]): Uint8Array[] {
  const outer = new Map<string, string[]>();
  for (const path of [...new Set(paths)].sort()) {
    const parent = [...outer.keys()].find((one) => path.startsWith(one === '/' ? one : `${one}/`));
    if (parent === undefined) {
      outer.set(path, []);
    } else {
      outer.get(parent)?.push(path.slice(parent === '/' ? 1 : parent.length + 1));
    }
  }
  return [...outer].map(([path, below]) => directory(path.slice(1), below));
}

function directory(name: string, below: readonly string[] = []): Uint8Array {
  const children = below.map((child) => directory(child));
  return encodeFields(
    new Map([
      [1, [new TextEncoder().encode(name)]],
      [2, children],
    ]),
  );
}

function messagesIn(fields: Fields, number: number): Fields[] {
  return (fields.get(number) ?? []).flatMap((one) => (one instanceof Uint8Array ? (decodeFields(one) ?? []) : []));
}

function textsIn(fields: Fields, number: number): string[] {
  return (fields.get(number) ?? []).flatMap((one) => (one instanceof Uint8Array ? new TextDecoder().decode(one) : []));
}
