import { expect, test } from 'vitest';
import { KybernateError } from '../../core/errors.ts';
import { grpcCodeOf } from './channel.ts';
import { connectContainerd, taskCalls } from './client.ts';
import { decodeRuncOptions, encodeCheckpointOptions, encodeRuncOptions, runcRoot } from './runc-options.ts';

test('a containerd that is not there is an error of the call, at once', async () => {
  const containerd = connectContainerd('/nowhere/containerd.sock');

  const error: unknown = await containerd.getTask('default', 'web').catch((thrown: unknown) => thrown);

  expect(error).toMatchObject({
    type: 'RuntimeUnavailable',
    details: { grpcCode: 'UNAVAILABLE', namespace: 'default' },
  });
  expect(grpcCodeOf(error)).toBe('UNAVAILABLE');
  expect(String(error)).toContain('containerd at /nowhere/containerd.sock does not answer');
  containerd.close();
});

test('an aborted wait ends with the reason of the abort', async () => {
  const containerd = connectContainerd('/nowhere/containerd.sock');
  const reason = new Error('enough');

  await expect(containerd.waitTask('default', 'web', AbortSignal.abort(reason))).rejects.toBe(reason);
  containerd.close();
});

test.each([
  [
    'was cleaned up',
    new KybernateError('Internal', 'containerd: no', { details: { grpcCode: 'NOT_FOUND' } }),
    undefined,
  ],
  ['is still to be cleaned up', undefined, { exitStatus: 137 }],
])('a task whose shim ends during its deletion is deleted: it %s', async (_, second, expected) => {
  const shimEnded = 'containerd: tasks.v1.Tasks/Delete in default: UNKNOWN: failed to delete task: ttrpc: closed';
  const answers = [new KybernateError('Internal', shimEnded), second];
  const call = (): Promise<never> => {
    const error = answers.shift();
    return error === undefined ? Promise.resolve({ exitStatus: 137 } as never) : Promise.reject(error);
  };

  expect(await taskCalls({ call }).deleteTask('default', 'web')).toEqual(expected);
  expect(answers).toEqual([]);
});

test('runtime options survive the wire and name the root of runc', () => {
  const options = encodeRuncOptions({ root: '/run/other', binaryName: 'crun' });

  expect(options.typeUrl).toBe('containerd.runc.v1.Options');
  expect(decodeRuncOptions(options)).toMatchObject({ root: '/run/other', binaryName: 'crun', systemdCgroup: false });
  expect(runcRoot('k8s.io', options)).toBe('/run/other/k8s.io');
});

test('without a root in the options, or with options of another kind, containerd’s own root counts', () => {
  const foreign = { typeUrl: 'runtimeoptions.v1.Options', value: new Uint8Array([1, 2, 3]) };

  expect(runcRoot('default', undefined)).toBe('/run/containerd/runc/default');
  expect(runcRoot('default', encodeRuncOptions({}))).toBe('/run/containerd/runc/default');
  expect(runcRoot('default', foreign)).toBe('/run/containerd/runc/default');
});

test('checkpoint options are encoded field by field as the shim reads them', () => {
  const { typeUrl, value } = encodeCheckpointOptions({
    imagePath: '/i',
    workPath: '/w',
    exit: true,
    openTcp: true,
    externalUnixSockets: false,
    terminal: true,
    fileLocks: true,
  });

  expect(typeUrl).toBe('containerd.runc.v1.CheckpointOptions');
  // exit=1, open_tcp=2, external_unix_sockets=3, terminal=4, file_locks=5 as varints; image_path=8, work_path=9 as strings
  expect([...value]).toEqual([8, 1, 16, 1, 24, 0, 32, 1, 40, 1, 66, 2, 47, 105, 74, 2, 47, 119]);
});
