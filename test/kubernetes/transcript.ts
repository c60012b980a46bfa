/*
 * unshare --net node test/kubernetes/transcript.ts: a cluster with the chart, what somebody types on it, and what it
 * answers, as Markdown on stdout: the transcript of docs/kubernetes.md.
 */
import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { requireProgram } from '../../cli/setup/programs.ts';
import { runExeca } from '../../native/run/run-execa.ts';
import { ROOT } from '../../tools/check-steps.ts';
import { BUSYBOX_IMAGE, REDIS_IMAGE } from '../harness/images.ts';
import { type Cluster, startCluster } from './cluster.ts';
import { installChart, TEMPORAL_VARIABLES } from './install.ts';

const pod = (name: string, annotations: string): string => `apiVersion: v1
kind: Pod
metadata: { name: ${name}${annotations} }
spec:
  runtimeClassName: kybernate
  containers:
    - name: app
      image: ${REDIS_IMAGE}
      workingDir: /data
      command: [redis-server, --save, '', --protected-mode, 'no']
      readinessProbe: { exec: { command: [redis-cli, ping] }, periodSeconds: 1 }
      livenessProbe: { tcpSocket: { port: 6379 }, periodSeconds: 2 }
`;

const OBJECTS = `apiVersion: kybernate.io/v1alpha1
kind: Checkpoint
metadata: { name: nightly }
spec: { pod: cache-2 }
---
apiVersion: kybernate.io/v1alpha1
kind: Restore
metadata: { name: cache-3 }
spec: { checkpoint: nightly }
`;

/** What is typed; the checkpoint has a name of its own, so that the second file can be written before. */
const COMMANDS = [
  'helm list --namespace kybernate',
  'kubectl -n kybernate get pods -o wide',
  'kubectl get runtimeclass',
  'kubectl apply -f cache-1.yaml',
  'kubectl wait --for=condition=Ready pod/cache-1 --timeout=60s',
  'kubectl exec cache-1 -- redis-cli set token in-memory',
  "kubectl exec cache-1 -- sh -c 'echo in-a-file > /data/token'",
  'kybernate checkpoint --node node-a --pod default/cache-1/app --id cache',
  'kubectl exec cache-1 -- redis-cli set token changed-later',
  'cat cache-2.yaml',
  'kubectl apply -f cache-2.yaml',
  'kubectl wait --for=condition=Ready pod/cache-2 --timeout=60s',
  'kubectl exec cache-2 -- redis-cli get token',
  'kubectl exec cache-2 -- cat /data/token',
  'kubectl exec cache-2 -- hostname',
  'kubectl get pods -o wide',
  'kubectl exec cache-2 -- redis-cli info server | grep uptime_in_seconds',
  'cat objects.yaml',
  'kubectl apply -f objects.yaml',
  'kubectl wait --for=condition=Ready restore/cache-3 --timeout=60s',
  'kubectl get checkpoints,restores',
  'kubectl exec cache-3 -- redis-cli get token',
  'kubectl -n kybernate rollout restart daemonset/kybernate-node',
  'kubectl -n kybernate rollout status daemonset/kybernate-node',
  'kubectl exec cache-2 -- redis-cli get token',
];

function prepare({ paths }: Cluster): { dir: string; env: Record<string, string> } {
  const dir = join(paths.dir, 'typed');
  const bin = join(paths.dir, 'typed-bin');
  mkdirSync(dir);
  mkdirSync(bin);
  writeFileSync(join(dir, 'cache-1.yaml'), pod('cache-1', ''));
  writeFileSync(join(dir, 'cache-2.yaml'), pod('cache-2', ', annotations: { kybernate.io/restore-from: cache }'));
  writeFileSync(join(dir, 'objects.yaml'), OBJECTS);
  for (const name of ['kubectl', 'helm'] as const) {
    symlinkSync(requireProgram(name, process.env), join(bin, name));
  }
  writeFileSync(join(bin, 'kybernate'), `#!/bin/sh\nexec '${process.execPath}' '${join(ROOT, 'cli/main.ts')}' "$@"\n`);
  chmodSync(join(bin, 'kybernate'), 0o755);
  const env = { ...TEMPORAL_VARIABLES, HOME: paths.dir, KUBECONFIG: paths.kubeconfig };
  return { dir, env: { ...env, PATH: `${bin}:${process.env['PATH'] ?? ''}` } };
}

const cluster = await startCluster();
try {
  await cluster.importImages([BUSYBOX_IMAGE, REDIS_IMAGE]);
  await installChart(cluster);
  const { dir, env } = prepare(cluster);
  const lines: string[] = [];
  for (const command of COMMANDS) {
    const result = await runExeca('/bin/sh', ['-c', command], { cwd: dir, env, timeoutMs: 180_000 });
    const said = result.exitCode === 0 ? result.stdout : `${result.stdout}${result.stderr}exit code ${result.exitCode}`;
    // Where this machine keeps things is nobody's business.
    lines.push(`$ ${command}`, said.replaceAll(cluster.paths.dir, '/var/lib/e2e').trimEnd());
  }
  process.stdout.write(`\`\`\`console\n${lines.filter((line) => line !== '').join('\n')}\n\`\`\`\n`);
} finally {
  await cluster.close();
}
