import { describe, expect, it } from 'vitest';
import type { OciSpec } from '../../core/oci/spec.ts';
import type { GivenDevice } from '../../native/kubelet/pod-resources.ts';
import type { NodeSettings } from '../node-deps.ts';
import { givenGpus } from './pod-gpus.ts';

const ONE = 'GPU-11111111-1111-1111-1111-111111111111';
const TWO = 'GPU-22222222-2222-2222-2222-222222222222';
const POD = {
  'io.kubernetes.cri.sandbox-namespace': 'ml',
  'io.kubernetes.cri.sandbox-name': 'train-0',
  'io.kubernetes.cri.container-name': 'app',
};

const gpus = (...ids: string[]): readonly GivenDevice[] => ids.map((id) => ({ resource: 'nvidia.com/gpu', id }));

function given(spec: OciSpec, devices?: readonly GivenDevice[], fromEnvironment = false): ReturnType<typeof givenGpus> {
  const settings = { podGpusFromEnvironment: fromEnvironment } as NodeSettings;
  return givenGpus({ settings, podDevices: () => Promise.resolve(devices) }, spec);
}

const withVariable = (value: string): OciSpec => ({
  annotations: POD,
  process: { env: [`NVIDIA_VISIBLE_DEVICES=${value}`] },
});

describe('givenGpus', () => {
  it('takes the device nodes of the specification, which kubelet and CDI put there, before anything else', async () => {
    const linux = { devices: [{ path: '/dev/nvidia3', type: 'c', major: 195, minor: 3 }] };

    expect(await given({ ...withVariable(ONE), linux }, gpus(TWO))).toEqual({ asked: { minors: [3] } });
  });

  it('takes what kubelet gave to the container, each GPU once, whatever its variable says', async () => {
    expect(await given(withVariable('all'), gpus(`${ONE}::0`, `${ONE}::1`, TWO), true)).toEqual({
      asked: { names: [ONE, TWO] },
    });
  });

  it.each([
    ['kubelet gave it none', gpus()],
    ['no kubelet answers', undefined],
  ])('refuses when %s: its variable may be of the image', async (_title, devices) => {
    expect((await given(withVariable('all'), devices)).refusal).toMatch(
      /gave the container app of pod ml\/train-0 no GPU.*KYBERNATE_POD_GPUS_FROM_ENV/,
    );
    expect((await given({ annotations: POD }, devices)).refusal).not.toContain('KYBERNATE_POD_GPUS');
  });

  it('listens to the variable where the node allows it', async () => {
    expect(await given(withVariable(ONE), undefined, true)).toEqual({ asked: { names: [ONE] } });
    expect(await given(withVariable('all'), undefined, true)).toEqual({});
  });

  it('refuses parts of a GPU', async () => {
    expect((await given({ annotations: POD }, gpus('MIG-1-2-3'))).refusal).toContain('MIG-1-2-3');
  });

  it('asks no kubelet for a container that is in no pod', async () => {
    const settings = {} as NodeSettings;
    const podDevices = (): never => {
      throw new Error('asked');
    };

    expect(await givenGpus({ settings, podDevices }, {})).toEqual({});
  });
});
