/* What a restore takes of the node: network, pids, disk, memory, files. Pure: what is here is given. */
import { isIPv6 } from 'node:net';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import { caution, type Finding, notRecorded, problem } from '../../core/preflight.ts';
import type { Endpoint } from '../../native/proc/sockets.ts';

/** A network namespace that is there before the container. */
export interface NetworkHere {
  readonly name: string;
  readonly listening: readonly Endpoint[];
  readonly addresses: ReadonlySet<string>;
}

const WILDCARDS: ReadonlySet<string> = new Set(['0.0.0.0', '::']);

/** @param tcp of the restore: connections that are closed need no address */
export function networkFindings(capture: Metadata['capture'], tcp: 'keep' | 'close', here: NetworkHere): Finding[] {
  const { listening, connectedAddresses = [] } = capture;
  if (listening === undefined) {
    return (capture.tcpPorts ?? []).length === 0 ? [] : [notRecorded('ports')];
  }
  const taken = listening.flatMap((wanted) => {
    const other = here.listening.find((one) => overlaps(wanted, one));
    return other === undefined
      ? []
      : [
          problem('ports', `port ${wanted.port} of ${wanted.address} is taken in ${here.name}`, {
            recorded: endpointText(wanted),
            here: endpointText(other),
          }),
        ];
  });
  const needed = new Set([
    ...listening.map(({ address }) => address),
    ...(tcp === 'keep' && capture.tcp === 'keep' ? connectedAddresses : []),
  ]);
  const missing = [...needed].filter((address) => !isHere(address, here.addresses));
  return [
    ...taken,
    ...missing.map((address) =>
      problem('addresses', `${here.name} does not have the address ${address}`, {
        recorded: address,
        here: [...here.addresses].join(', '),
      }),
    ),
  ];
}

function overlaps(wanted: Endpoint, other: Endpoint): boolean {
  return (
    wanted.port === other.port &&
    (wanted.address === other.address || WILDCARDS.has(wanted.address) || WILDCARDS.has(other.address))
  );
}

function isHere(address: string, addresses: ReadonlySet<string>): boolean {
  return WILDCARDS.has(address) || address.startsWith('127.') || addresses.has(address);
}

function endpointText({ address, port }: Endpoint): string {
  return isIPv6(address) ? `[${address}]:${port}` : `${address}:${port}`;
}

export interface PidsHere {
  /** those of the wanted ones that exist, and who has them: a process, or a thread of it */
  readonly taken: ReadonlyArray<{ readonly id: number; readonly hostPid: number; readonly command: string }>;
  readonly pidMax: number;
}

/** Where the container shares its pid namespace: every process comes back under its pid, or not at all. */
export function pidFindings(ids: readonly number[], here: PidsHere): Finding[] {
  const beyond = ids.filter((id) => id > here.pidMax);
  return [
    ...here.taken.map(({ id, hostPid, command }) =>
      problem('pids', `pid ${id} is taken by ${command} (${hostPid} on the node)`, {
        recorded: String(id),
        here: `${command} (${hostPid})`,
      }),
    ),
    ...beyond.map((id) =>
      problem('pids', `pid ${id} is above the limit of this node`, {
        recorded: String(id),
        here: `kernel.pid_max = ${here.pidMax}`,
      }),
    ),
  ];
}

export interface RoomHere {
  /** where the copy of the checkpoint goes, and what it still needs there */
  readonly disk: { readonly dir: string; readonly freeBytes: number; readonly neededBytes: number };
  /** that can be had without swapping out anything */
  readonly memoryBytes: number;
  readonly swapBytes: number;
  /** page size → bytes in free pages of it */
  readonly hugePages: ReadonlyMap<number, number>;
}

/** @param neededMemoryBytes what the processes take when they are back */
export function roomFindings(
  capture: Pick<Metadata['capture'], 'hugePages'>,
  neededMemoryBytes: number,
  here: RoomHere,
): Finding[] {
  const { dir, freeBytes, neededBytes } = here.disk;
  const findings: Finding[] = [];
  if (freeBytes < neededBytes) {
    const message = `${dir} has ${freeBytes} bytes free, the checkpoint needs ${neededBytes}`;
    findings.push(problem('disk', message, { recorded: `${neededBytes} bytes`, here: `${freeBytes} bytes` }));
  }
  findings.push(...memoryFindings(neededMemoryBytes, here));
  if (capture.hugePages === undefined) {
    return [...findings, notRecorded('huge-pages')];
  }
  const short = capture.hugePages.filter(({ pageBytes, bytes }) => (here.hugePages.get(pageBytes) ?? 0) < bytes);
  return [
    ...findings,
    ...short.map(({ pageBytes, bytes }) => {
      const free = here.hugePages.get(pageBytes) ?? 0;
      return problem('huge-pages', `${free} bytes are free in huge pages of ${pageBytes} bytes, ${bytes} are needed`, {
        recorded: `${bytes} bytes`,
        here: `${free} bytes`,
      });
    }),
  ];
}

function memoryFindings(neededBytes: number, { memoryBytes, swapBytes }: RoomHere): Finding[] {
  const compared = { recorded: `${neededBytes} bytes`, here: `${memoryBytes} bytes, ${swapBytes} of swap` };
  const message = `the node has ${memoryBytes} bytes of memory left, ${neededBytes} are needed`;
  if (memoryBytes >= neededBytes) {
    return [];
  }
  return memoryBytes + swapBytes >= neededBytes
    ? [caution('memory', `${message}: it will swap`, compared)]
    : [problem('memory', message, compared)];
}

/** What lies at the source of a bind mount. */
export interface SourceHere {
  readonly kind: string;
  readonly fileSystem?: string;
}

/** That a source is there others say: mounts.ts, and core/oci/restore-plan.ts for a container that somebody else has made. */
export function mountFindings(
  mounts: Metadata['mounts'],
  sourceAt: (path: string) => SourceHere | undefined,
  fileSystems: ReadonlySet<string>,
): Finding[] {
  const bound = mounts.filter(({ captured }) => !captured);
  const silent = bound.some(({ sourceKind }) => sourceKind === undefined);
  return [
    ...(silent ? [notRecorded('mounts')] : []),
    ...bound.flatMap(({ destination, source, sourceKind, sourceFileSystem }): Finding[] => {
      const here = sourceAt(source);
      // Absent at the checkpoint, too: the file was removed after it had been mounted.
      if (here === undefined || sourceKind === undefined || sourceKind === 'absent') {
        return [];
      }
      if (here.kind !== sourceKind) {
        const message = `mount ${destination}: ${source} is a ${here.kind} here, at the dump it was a ${sourceKind}`;
        return [problem('mounts', message, { recorded: sourceKind, here: here.kind })];
      }
      const { fileSystem } = here;
      return sourceFileSystem === undefined || fileSystem === undefined || fileSystem === sourceFileSystem
        ? []
        : [
            caution(
              'mounts',
              `mount ${destination}: ${source} lies on ${fileSystem} here, before on ${sourceFileSystem}`,
              {
                recorded: sourceFileSystem,
                here: fileSystem,
              },
            ),
          ];
    }),
    ...unknownFileSystems(mounts, fileSystems),
  ];
}

/** The runtime makes a mount of type `cgroup` whatever the version of the hierarchy. */
function unknownFileSystems(mounts: Metadata['mounts'], fileSystems: ReadonlySet<string>): Finding[] {
  const types = new Set(mounts.filter(({ captured }) => captured).map(({ type }) => type));
  return [...types]
    .filter((type) => !['', 'bind', 'none', 'cgroup', 'cgroup2'].includes(type) && !fileSystems.has(type))
    .map((type) => problem('file-systems', `the kernel of this node has no file system ${type}`, { recorded: type }));
}
