import { join } from 'node:path';
import {
  loadSync,
  type MessageTypeDefinition,
  type MethodDefinition,
  type PackageDefinition,
} from '@grpc/proto-loader';
import { KybernateError } from '../../core/errors.ts';
import { protoDirectory } from '../proto-directory.ts';

const FILES = [
  'containers',
  'tasks',
  'snapshots',
  'images',
  'content',
  'diff',
  'leases',
  'version',
  'introspection',
  'cri',
  'runc-options',
];

let loaded: PackageDefinition | undefined;

function definitions(): PackageDefinition {
  loaded ??= loadSync(
    FILES.map((name) => `${name}.proto`),
    {
      includeDirs: [join(protoDirectory(), 'containerd')],
      longs: Number,
      enums: String,
      defaults: true,
      arrays: true,
      objects: true,
    },
  );
  return loaded;
}

export type Method = MethodDefinition<object, object>;

/** @param service for example `tasks.v1.Tasks`; of CRI, which is not containerd's own, `runtime.v1.RuntimeService` */
export function methodOf(service: string, name: string): Method {
  const definition = definitions()[`containerd.services.${service}`] ?? definitions()[service];
  const method = definition === undefined ? undefined : (definition as Record<string, Method>)[name];
  if (method === undefined) {
    throw new KybernateError('Internal', `proto/containerd has no ${service}/${name}`);
  }
  return method;
}

/** @param name for example `containerd.runc.v1.Options` */
export function messageOf(name: string): MessageTypeDefinition<object, object> {
  const definition = definitions()[name];
  if (definition === undefined || !('serialize' in definition) || typeof definition.serialize !== 'function') {
    throw new KybernateError('Internal', `proto/containerd has no message ${name}`);
  }
  return definition as MessageTypeDefinition<object, object>;
}
