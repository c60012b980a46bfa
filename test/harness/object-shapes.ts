/* `spec` of the two kinds of Kubernetes objects, as the operator would take it. */
import type { Shape } from './malformed.ts';

const TEMPLATE = { metadata: { labels: { a: 'b' }, annotations: {} }, spec: { containers: [{ name: 'app' }] } };

export const CHECKPOINT_SPEC: Shape = {
  valid: { pod: 'llm', gpu: {}, labels: { a: 'b' } },
  fields: {
    pod: 'word',
    container: 'word',
    checkpointId: 'word',
    after: 'choice',
    durability: 'choice',
    engine: 'choice',
    tcp: 'choice',
    freezeBudgetMs: 'count',
    holdBudgetMs: 'count',
    podWaitMs: 'count',
    gpu: 'record',
    'gpu.allowShared': 'flag',
    health: 'record',
    'health.command': 'list',
    labels: 'record',
    'labels.a': 'text',
  },
  required: ['pod'],
};

export const RESTORE_SPEC: Shape = {
  valid: { checkpointId: 'ck', template: TEMPLATE },
  fields: {
    checkpoint: 'word',
    checkpointId: 'word',
    pod: 'word',
    container: 'word',
    template: 'record',
    'template.metadata.labels.a': 'text',
    'template.metadata.annotations.b': 'text',
    'template.spec': 'record',
    'template.spec.containers': 'list',
    'template.spec.nodeSelector.a': 'text',
    node: 'word',
    runtimeClassName: 'word',
    tcp: 'choice',
    onFailure: 'choice',
    readyWaitMs: 'count',
  },
  required: ['checkpointId', 'template'],
};
