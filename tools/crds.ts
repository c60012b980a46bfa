/*
 * The CRDs of the chart, made from the schemas of core/contract/kubernetes.ts: one source for what the apiserver accepts,
 * what `kubectl explain` tells, and what the operator reads. Part of `npm run gen`.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { stringify } from 'yaml';
import * as z from 'zod';
import {
  API_GROUP,
  API_VERSION,
  kubernetesCheckpointSpec,
  kubernetesCheckpointStatus,
  kubernetesRestoreSpec,
  kubernetesRestoreStatus,
} from '../core/contract/kubernetes.ts';
import { schemaComments } from './schema-comments.ts';

const SOURCE = join(import.meta.dirname, '../core/contract/kubernetes.ts');

interface Column {
  readonly name: string;
  readonly type: 'string' | 'integer' | 'number' | 'date';
  readonly jsonPath: string;
  readonly priority?: number;
}

interface KindSource {
  readonly kind: string;
  readonly plural: string;
  readonly shortName: string;
  readonly spec: z.ZodType;
  readonly status: z.ZodType;
  readonly specConst: string;
  readonly statusConst: string;
  readonly columns: readonly Column[];
  /** fields of the specification that may be changed; what was asked for otherwise can only be asked for anew */
  readonly mutable: readonly string[];
  readonly rules: readonly Rule[];
}

/** In CEL. */
interface Rule {
  readonly rule: string;
  readonly message: string;
}

const AGE: Column = { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' };
const MESSAGE: Column = {
  name: 'Message',
  type: 'string',
  jsonPath: '.status.conditions[?(@.type=="Ready")].message',
  priority: 1,
};

const KINDS: readonly KindSource[] = [
  {
    kind: 'Checkpoint',
    plural: 'checkpoints',
    shortName: 'ckpt',
    spec: kubernetesCheckpointSpec,
    status: kubernetesCheckpointStatus,
    specConst: 'kubernetesCheckpointSpec',
    statusConst: 'kubernetesCheckpointStatus',
    columns: [
      { name: 'Phase', type: 'string', jsonPath: '.status.phase' },
      { name: 'Pod', type: 'string', jsonPath: '.spec.pod' },
      { name: 'Checkpoint', type: 'string', jsonPath: '.status.checkpointId' },
      { name: 'Freeze-ms', type: 'number', jsonPath: '.status.freezeMs' },
      { name: 'Bytes', type: 'integer', jsonPath: '.status.totalBytes', priority: 1 },
      { name: 'Node', type: 'string', jsonPath: '.status.node', priority: 1 },
      { name: 'Deletion', type: 'string', jsonPath: '.spec.deletionPolicy', priority: 1 },
      MESSAGE,
      AGE,
    ],
    // Who deletes and cannot must be able to let the checkpoint stay.
    mutable: ['deletionPolicy'],
    rules: [{ rule: 'has(self.pod) != has(self.source)', message: 'give either spec.pod or spec.source' }],
  },
  {
    kind: 'Restore',
    plural: 'restores',
    shortName: 'rst',
    spec: kubernetesRestoreSpec,
    status: kubernetesRestoreStatus,
    specConst: 'kubernetesRestoreSpec',
    statusConst: 'kubernetesRestoreStatus',
    columns: [
      { name: 'Phase', type: 'string', jsonPath: '.status.phase' },
      { name: 'Checkpoint', type: 'string', jsonPath: '.status.checkpointId' },
      { name: 'Pod', type: 'string', jsonPath: '.status.pod' },
      { name: 'How', type: 'string', jsonPath: '.status.how' },
      { name: 'Node', type: 'string', jsonPath: '.status.node', priority: 1 },
      MESSAGE,
      AGE,
    ],
    mutable: [],
    rules: [],
  },
];

/** What JSON Schema says and a structural schema of the API server may not, or says otherwise. */
type Node = Record<string, unknown>;

/** File below helm/kybernate/crds → its text. */
export function crdFiles(): ReadonlyMap<string, string> {
  return new Map(
    KINDS.map((source) => [
      `helm/kybernate/crds/${source.plural}.yaml`,
      `# Made by tools/crds.ts from core/contract/kubernetes.ts.\n${stringify(crd(source), { lineWidth: 0, aliasDuplicateObjects: false })}`,
    ]),
  );
}

function crd(source: KindSource): Node {
  const { kind, plural, shortName, columns } = source;
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name: `${plural}.${API_GROUP}` },
    spec: {
      group: API_GROUP,
      scope: 'Namespaced',
      names: { kind, plural, singular: kind.toLowerCase(), shortNames: [shortName], categories: ['kybernate'] },
      versions: [
        {
          name: API_VERSION,
          served: true,
          storage: true,
          subresources: { status: {} },
          additionalPrinterColumns: columns,
          schema: {
            openAPIV3Schema: {
              type: 'object',
              required: ['spec'],
              properties: { spec: specOf(source), status: schemaOf(source.status, source.statusConst, 'output') },
            },
          },
        },
      ],
    },
  };
}

function specOf({ spec, specConst, mutable, rules: ownRules }: KindSource): Node {
  const schema = schemaOf(spec, specConst, 'input');
  const properties = schema['properties'] as Record<string, Node>;
  const fixed = Object.keys(properties).filter((name) => !mutable.includes(name));
  const rules = fixed.map((name) => ({
    rule: `has(self.${name}) == has(oldSelf.${name}) && (!has(self.${name}) || self.${name} == oldSelf.${name})`,
    message: `spec.${name} cannot be changed: make another object`,
  }));
  return { ...schema, 'x-kubernetes-validations': [...ownRules, ...rules] };
}

function schemaOf(schema: z.ZodType, constName: string, io: 'input' | 'output'): Node {
  const comments = schemaComments(readFileSync(SOURCE, 'utf8'), constName);
  const json = z.toJSONSchema(schema, { io, reused: 'inline', target: 'openapi-3.0' }) as Node;
  return structural(json, comments, '');
}

function structural(node: Node, comments: ReadonlyMap<string, string>, path: string): Node {
  const { $schema: _schema, additionalProperties, propertyNames: _names, properties, items, ...rest } = node;
  const description = comments.get(path);
  const inner = (name: string, child: Node): Node =>
    structural(child, comments, path === '' ? name : `${path}.${name}`);
  const isFree = typeof additionalProperties === 'object' && additionalProperties !== null;
  const values = isFree ? (additionalProperties as Node) : undefined;
  return {
    ...rest,
    ...(description === undefined ? {} : { description }),
    ...(items === undefined ? {} : { items: structural(items as Node, comments, path) }),
    ...(properties === undefined
      ? {}
      : {
          properties: Object.fromEntries(
            Object.entries(properties as Record<string, Node>).map(([name, child]) => [name, inner(name, child)]),
          ),
        }),
    // Values of any kind are kept as they are; the API server would prune them.
    ...(values === undefined
      ? {}
      : Object.keys(values).length === 0
        ? { 'x-kubernetes-preserve-unknown-fields': true }
        : { additionalProperties: structural(values, comments, path) }),
  };
}
