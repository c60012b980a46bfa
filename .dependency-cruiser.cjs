/* One rule a row of the table "who may import whom" (docs/architecture.md). */
const T = '\\.test\\.ts$|/suite\\.ts$';
const may = (name, from, allowed, comment) => ({
  name,
  comment,
  severity: 'error',
  from: { path: `^${from}/`, pathNot: T },
  to: {
    path: '^(core|native|engine|store|activities|workflows|workers|client|operator|shim|cli|tools|test|bench|examples)/',
    pathNot: `^(${allowed.map((path) => (path.includes('/') ? path : `${path}/`)).join('|')})`,
    dependencyTypesNot: ['type-only'],
  },
});
const only = (name, moduleRegex, allowedPath, comment) => ({
  name,
  comment,
  severity: 'error',
  from: {
    path: '^(core|native|engine|store|activities|workflows|workers|client|operator|shim|cli)/',
    pathNot: `${allowedPath}|${T}`,
  },
  to: { path: moduleRegex, dependencyTypesNot: ['type-only'] },
});
module.exports = {
  forbidden: [
    { name: 'no-circular', severity: 'error', comment: 'no cycles', from: {}, to: { circular: true } },
    may('core-is-pure', 'core', ['core'], 'core imports zod and itself'),
    may('native-layer', 'native', ['core', 'native'], 'native: bindings only, no policy'),
    may('engine-layer', 'engine', ['core', 'native', 'engine'], 'engine does not know store, Temporal or its callers'),
    may('store-layer', 'store', ['core', 'store'], 'store knows bytes, not containers'),
    may(
      'activities-layer',
      'activities',
      ['core', 'engine', 'store', 'activities'],
      'activities join engine and store',
    ),
    may(
      'workflows-layer',
      'workflows',
      ['core', 'workflows', 'activities/contract\\.ts$'],
      'workflows are deterministic; activities only as types',
    ),
    may(
      'workers-layer',
      'workers',
      ['core', 'native', 'engine', 'store', 'activities', 'operator', 'client', 'workers'],
      'workers wire; the agent starts operations by the typed client',
    ),
    may('operator-layer', 'operator', ['core', 'client', 'operator'], 'the operator starts workflows by the client'),
    may('shim-layer', 'shim', ['core', 'native', 'engine', 'shim'], 'the wrapper is a small bundle'),
    may('client-layer', 'client', ['core', 'client'], 'the typed client starts workflows by name'),
    may(
      'cli-layer',
      'cli',
      ['core', 'native', 'engine', 'store', 'workers', 'client', 'shim', 'cli', 'tools'],
      'the CLI starts workflows by name',
    ),
    {
      name: 'core-external',
      comment: 'core imports zod and nothing else',
      severity: 'error',
      from: { path: '^core/', pathNot: T },
      to: { path: 'node_modules|^node:', pathNot: 'node_modules/zod/', dependencyTypesNot: ['type-only'] },
    },
    {
      name: 'workflows-external',
      comment: 'only @temporalio/workflow and zod may enter the bundle',
      severity: 'error',
      // A bundle of its own, for workers with traces: no workflow imports it.
      from: { path: '^workflows/', pathNot: `^workflows/trace-interceptors\\.ts$|${T}` },
      to: {
        path: 'node_modules|^node:',
        pathNot: 'node_modules/(zod|@temporalio/workflow)/',
        dependencyTypesNot: ['type-only'],
      },
    },
    only(
      'traces-in-one-place',
      'node_modules/(@opentelemetry|@temporalio/interceptors-opentelemetry)/',
      '^workers/opentelemetry\\.ts$|^workflows/trace-interceptors\\.ts$',
      'the rest tells core/spans.ts what it does',
    ),
    only('metrics-in-one-place', 'node_modules/prom-client/', '^workers/metrics\\.ts$', 'the rest counts with a Meter'),
    only('koffi-only-in-native', 'node_modules/koffi/', '^native/', 'koffi is loaded by native/ alone'),
    only('execa-in-one-place', 'node_modules/execa/', '^native/run/run-execa\\.ts$', 'one place starts processes'),
    only('s3-in-one-place', 'node_modules/@aws-sdk/', '^store/backend/s3\\.ts$', 'one place speaks S3'),
    only(
      'temporal-only-at-the-edges',
      'node_modules/@temporalio/',
      '^(activities|workflows|workers|client|cli)/',
      'engine and store know no Temporal',
    ),
    only(
      'kubernetes-in-one-place',
      'node_modules/@kubernetes/',
      '^(operator/|cli/host/|workers/operator\\.ts$)',
      'the operator speaks to the API server, and what a chart runs on a host',
    ),
    {
      name: 'wrapper-stays-small',
      comment: 'the wrapper bundle: no execa, no koffi, no zod-heavy contracts it does not need',
      severity: 'error',
      from: { path: '^shim/wrapper/', pathNot: T },
      to: { path: '^native/(run/run-execa|cuda|nvml|ptrace|memory|libc|containerd)' },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '^dist/' },
    tsPreCompilationDeps: 'specify',
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['import', 'node', 'default', 'types'],
      extensions: ['.ts', '.js', '.json'],
    },
  },
};
