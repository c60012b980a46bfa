/*
 * GPUs for a container that starts afresh and brings no driver: its bundle's specification gets devices and the driver's
 * files before runc reads it, from the node's CDI specification or by looking for them. So runc knows every mount, and
 * the container can be checkpointed, which one that a hook has equipped cannot.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { type CdiHost, cdiEdits } from '../../core/oci/cdi.ts';
import { driverEdits } from '../../core/oci/driver-edits.ts';
import { type GpuEdits, type GpuWish, gpuWish, withGpuEdits } from '../../core/oci/gpu-spec.ts';
import { parseRuncCreate } from '../../core/oci/runc-argv.ts';
import { type OciSpec, parseSpec, specText } from '../../core/oci/spec.ts';
import { readCdiSpecs } from './cdi-files.ts';
import { findDriver, findGpus, linksTo, nodeAt } from './driver-files.ts';
import { replaceFile } from './files.ts';
import type { WrapperDeps } from './job.ts';

/**
 * Changes the bundle's config.json where it asks for GPUs that it does not have. Idempotent.
 * A node without GPUs, or without the driver's files, changes nothing and says so in runc's log.
 *
 * @param argv arguments of runc, a `create`
 * @param root where the driver's files lie; empty for the node's own root
 * @param isMeant of others nothing is changed
 * @throws Incompatible a GPU is named that the node does not have
 */
export async function giveGpus(
  deps: Pick<WrapperDeps, 'run' | 'log'>,
  argv: readonly string[],
  root: string,
  isMeant: (spec: OciSpec) => boolean = () => true,
): Promise<void> {
  const create = parseRuncCreate(argv);
  const bundle = resolve(create.bundle ?? '.');
  const configFile = join(bundle, 'config.json');
  const spec = parseSpec(readFileSync(configFile, 'utf8'), configFile);
  const wish = gpuWish(spec);
  if (wish === undefined || !isMeant(spec)) {
    return;
  }
  const warnings: string[] = [];
  const edits = await findEdits(deps, { wish, spec, bundle, root, warnings });
  for (const warning of warnings) {
    deps.log(create, 'warning', `kybernate: ${warning}`);
  }
  if (edits !== undefined) {
    replaceFile(configFile, specText(withGpuEdits(spec, edits)));
  }
}

interface Search {
  readonly wish: GpuWish;
  readonly spec: OciSpec;
  readonly bundle: string;
  readonly root: string;
  readonly warnings: string[];
}

async function findEdits(
  deps: Pick<WrapperDeps, 'run'>,
  { wish, spec, bundle, root, warnings }: Search,
): Promise<GpuEdits | undefined> {
  const host: CdiHost = {
    node: (path) => nodeAt(root, path),
    exists: (path) => existsSync(path),
    links: linksTo,
    gpus: findGpus(root),
  };
  const described = cdiEdits(await readCdiSpecs(root, warnings), wish, host, warnings);
  if (described !== undefined) {
    return described;
  }
  const driver = await findDriver(root, deps.run);
  if (driver === undefined || 'reason' in driver || driver.gpus.length === 0) {
    const why = driver !== undefined && 'reason' in driver ? driver.reason : 'this node has none';
    warnings.push(`${wish.origin} asks for GPUs: ${why}; the container starts without`);
    return undefined;
  }
  const rootfs = resolve(bundle, spec.root?.path ?? 'rootfs');
  return driverEdits(driver, wish, (dir) => existsSync(join(rootfs, dir)));
}
