/*
 * The GPUs that a container in a pod may take over. Its device nodes count first: kubelet's device plug-ins and CDI (so
 * dynamic resource allocation too) put them into its specification. Then what kubelet says that it gave to the container.
 * NVIDIA_VISIBLE_DEVICES is written by device plug-ins, and by images and users as well: it counts where the node's owner
 * says so.
 */
import { criAnnotation } from '../../core/oci/annotations.ts';
import { type AskedGpus, askedGpus } from '../../core/oci/gpu-fit.ts';
import type { OciSpec } from '../../core/oci/spec.ts';
import type { NodeDeps } from '../node-deps.ts';

const UUID = /^GPU-[0-9a-f-]{36}$/;
const NAMES_SOME = /^NVIDIA_VISIBLE_DEVICES=(?!$|void$|none$)/;
/** A GPU that a plug-in shares by time has several names: `<uuid>::<number>`. Source: NVIDIA k8s-device-plugin, rm. */
const REPLICA = /::\d+$/;

export interface GivenGpus {
  /** absent: any GPU of the node will do, nobody says more */
  readonly asked?: AskedGpus;
  /** why none will */
  readonly refusal?: string;
}

/** @throws NodeUnavailable kubelet is there and does not answer */
export async function givenGpus(deps: Pick<NodeDeps, 'settings' | 'podDevices'>, spec: OciSpec): Promise<GivenGpus> {
  const namespace = criAnnotation(spec, 'podNamespace');
  const name = criAnnotation(spec, 'podName');
  const container = criAnnotation(spec, 'containerName');
  const asked = askedGpus(spec);
  const said: GivenGpus = asked === undefined ? {} : { asked };
  const isPod = namespace !== undefined && name !== undefined && container !== undefined;
  if (!isPod || (asked !== undefined && 'minors' in asked)) {
    return said;
  }
  const given = await deps.podDevices?.({ namespace, name, container });
  const ids = (given ?? []).map(({ id }) => id.replace(REPLICA, '')).filter((id) => /^(?:GPU|MIG)-/.test(id));
  const parts = ids.filter((id) => !UUID.test(id));
  if (parts.length > 0) {
    return {
      refusal: `the pod was given ${parts.join(', ')}, parts of a GPU (MIG), which the driver cannot restore onto`,
    };
  }
  if (ids.length > 0) {
    return { asked: { names: [...new Set(ids)] } };
  }
  if (deps.settings.podGpusFromEnvironment === true) {
    return said;
  }
  const isNamed = (spec.process?.env ?? []).some((entry) => NAMES_SOME.test(entry));
  const notHeard = isNamed ? '; its NVIDIA_VISIBLE_DEVICES does not count (KYBERNATE_POD_GPUS_FROM_ENV)' : '';
  return {
    refusal: `kubelet gave the container ${container} of pod ${namespace}/${name} no GPU: request nvidia.com/gpu for it${notHeard}`,
  };
}
