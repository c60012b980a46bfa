/*
 * Which GPU stands in for which at a restore. The driver wants to be told of every GPU that a process could see at the
 * dump, each with a place of its own, or of none when all keep theirs (seen with driver 580: fewer pairs are refused).
 */

/** UUIDs of the device at the dump and of the one that takes over. */
export interface GpuPair {
  readonly from: string;
  readonly to: string;
}

export interface CapturedGpu {
  readonly uuid: string;
  readonly name: string;
  readonly memoryTotalBytes: number;
  readonly computeCapability: string;
  /** VRAM that the container's processes held on it */
  readonly usedBytes: number;
}

export interface TargetGpu {
  readonly uuid: string;
  readonly name: string;
  readonly memoryTotalBytes: number;
  /** less what others have reserved */
  readonly memoryFreeBytes: number;
  readonly computeCapability: string;
  readonly mig: boolean;
}

export interface DeviceMapInput {
  /** those that any process could see, by minor */
  readonly captured: readonly CapturedGpu[];
  /** UUIDs that each process could see */
  readonly visible: ReadonlyArray<readonly string[]>;
  /** what the caller asks for */
  readonly wanted: readonly GpuPair[];
  readonly target: readonly TargetGpu[];
  /** UUIDs of the target's devices that the container was given; absent: any */
  readonly allowed?: ReadonlySet<string>;
}

export interface DeviceMap {
  /** every GPU that was visible and found a place, those that keep theirs included; in the order of `captured` */
  readonly pairs: readonly GpuPair[];
  /** why some found none; with reasons the map must not be used */
  readonly reasons: readonly string[];
}

/** What was asked for comes first, then devices that the target has too, then the emptiest of the same model. */
export function mapDevices(input: DeviceMapInput): DeviceMap {
  const reasons: string[] = [];
  const captured = new Map(input.captured.map((device) => [device.uuid, device]));
  for (const uuid of new Set(input.visible.flat())) {
    if (!captured.has(uuid)) {
      reasons.push(`the checkpoint does not describe GPU ${uuid}, which its processes could see`);
    }
  }
  const places = new Map<string, string>();
  const target = new Map(input.target.map((device) => [device.uuid, device]));
  takeWanted(input, captured, target, places, reasons);
  const kept = placeOthers(input, new Map(places), true);
  // Devices that hold nothing may have to make room for one that cannot stay.
  const moved = kept.reasons.length === 0 ? kept : placeOthers(input, new Map(places), false);
  const found = moved.reasons.length === 0 ? moved : kept;
  const pairs = input.captured.flatMap(({ uuid: from }) => {
    const to = found.places.get(from);
    return to === undefined ? [] : [{ from, to }];
  });
  const wrong = pairs.flatMap((pair) => pairReasons(pair, captured, target));
  return { pairs, reasons: [...reasons, ...found.reasons, ...wrong] };
}

/**
 * Places for those that nobody spoke of.
 * @param places those that are decided; completed
 * @param stay whoever can keeps its device, before any other chooses
 */
function placeOthers(
  input: DeviceMapInput,
  places: Map<string, string>,
  stay: boolean,
): { readonly places: ReadonlyMap<string, string>; readonly reasons: readonly string[] } {
  const reasons: string[] = [];
  const taken = new Set(places.values());
  const usable = input.target.filter(({ uuid }) => input.allowed?.has(uuid) ?? true);
  const place = (device: CapturedGpu, to: TargetGpu): void => {
    places.set(device.uuid, to.uuid);
    taken.add(to.uuid);
  };
  const own = (device: CapturedGpu): TargetGpu | undefined =>
    usable.find(({ uuid }) => uuid === device.uuid && !taken.has(uuid));
  for (const device of stay ? input.captured.filter(({ uuid }) => !places.has(uuid)) : []) {
    const same = own(device);
    if (same !== undefined && unfit(device, same).length === 0) {
      place(device, same);
    }
  }
  // The greediest first: it has the smallest choice.
  const homeless = input.captured.filter(({ uuid }) => !places.has(uuid)).sort((a, b) => b.usedBytes - a.usedBytes);
  for (const device of homeless) {
    const free = usable.filter(({ uuid }) => !taken.has(uuid));
    const fit = free
      .filter((candidate) => unfit(device, candidate).length === 0)
      .sort((a, b) => b.memoryFreeBytes - a.memoryFreeBytes);
    const chosen = fit.find(({ uuid }) => uuid === device.uuid) ?? fit[0];
    if (chosen === undefined) {
      reasons.push(noPlace(device, free));
    } else {
      place(device, chosen);
    }
  }
  return { places, reasons };
}

function takeWanted(
  input: DeviceMapInput,
  captured: ReadonlyMap<string, CapturedGpu>,
  target: ReadonlyMap<string, TargetGpu>,
  places: Map<string, string>,
  reasons: string[],
): void {
  const taken = new Set<string>();
  for (const { from, to } of input.wanted) {
    const before = reasons.length;
    if (!captured.has(from)) {
      reasons.push(`gpuMap: the checkpoint has no GPU ${from} (it has ${listed(captured)})`);
    }
    if (!target.has(to)) {
      reasons.push(`gpuMap: this node has no GPU ${to} (it has ${listed(target)})`);
    } else if (input.allowed?.has(to) === false) {
      reasons.push(`gpuMap: the container was not given GPU ${to}`);
    }
    if (places.has(from)) {
      reasons.push(`gpuMap: GPU ${from} is named twice`);
    }
    if (taken.has(to)) {
      reasons.push(`gpuMap: GPU ${to} cannot take two places`);
    }
    taken.add(to);
    if (reasons.length === before) {
      places.set(from, to);
    }
  }
}

function pairReasons(
  { from, to }: GpuPair,
  captured: ReadonlyMap<string, CapturedGpu>,
  target: ReadonlyMap<string, TargetGpu>,
): readonly string[] {
  const was = captured.get(from);
  const is = target.get(to);
  return was === undefined || is === undefined ? [] : unfit(was, is);
}

/** Why one device cannot take the place of another; empty when it can. */
function unfit(was: CapturedGpu, is: TargetGpu): readonly string[] {
  const reasons: string[] = [];
  if (is.mig) {
    reasons.push(`GPU ${is.uuid} is divided by MIG, which the driver cannot restore onto`);
  }
  if (was.name !== is.name || was.computeCapability !== is.computeCapability) {
    reasons.push(
      `GPU ${is.uuid} is ${is.name} (compute capability ${is.computeCapability}), ` +
        `the checkpoint needs ${was.name} (${was.computeCapability})`,
    );
  }
  if (is.memoryTotalBytes < was.memoryTotalBytes) {
    reasons.push(`GPU ${is.uuid} has ${is.memoryTotalBytes} bytes of memory, ${was.uuid} had ${was.memoryTotalBytes}`);
  }
  if (is.memoryFreeBytes < was.usedBytes) {
    reasons.push(
      `GPU ${is.uuid} has ${Math.max(0, is.memoryFreeBytes)} bytes free, ${was.usedBytes} are needed for what was on ${was.uuid}`,
    );
  }
  return reasons;
}

function noPlace(device: CapturedGpu, free: readonly TargetGpu[]): string {
  const what = `no GPU takes the place of ${device.uuid} (${device.name})`;
  return free.length === 0
    ? `${what}: as many GPUs as were visible at the dump are needed, and none is left`
    : `${what}: ${free.flatMap((candidate) => unfit(device, candidate)).join(', ')}`;
}

function listed(devices: ReadonlyMap<string, unknown>): string {
  return [...devices.keys()].join(', ') || 'none';
}

/** What the driver is to be told for one process: every GPU that it could see, or nothing when all keep their places. */
export function driverPairs(map: readonly GpuPair[], visible: readonly string[]): readonly GpuPair[] {
  const pairs = map.filter(({ from }) => visible.includes(from));
  return pairs.every(({ from, to }) => from === to) ? [] : pairs;
}

/** Does some GPU change its place? */
export function movesGpus(map: readonly GpuPair[]): boolean {
  return map.some(({ from, to }) => from !== to);
}
