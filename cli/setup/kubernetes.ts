/*
 * Kubernetes' own programs and etcd for the tests on a real cluster. `go install` refuses modules that replace others,
 * and k8s.io/kubernetes does: they are built from a module of ours (tools/kubernetes) that pins the same replacements.
 */
import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';

import { KybernateError } from '../../core/errors.ts';
import { findGo, goProgress } from './go-install.ts';
import { runLong } from './long-command.ts';
import { toolPath } from './prerequisites.ts';
import { describeProgram, packageDir, type ProgramName, PROGRAMS } from './programs.ts';
import type { Installation, Step } from './step.ts';

const PACKAGES = {
  kubelet: 'k8s.io/kubernetes/cmd/kubelet',
  'kube-apiserver': 'k8s.io/kubernetes/cmd/kube-apiserver',
  'kube-controller-manager': 'k8s.io/kubernetes/cmd/kube-controller-manager',
  'kube-scheduler': 'k8s.io/kubernetes/cmd/kube-scheduler',
  kubectl: 'k8s.io/kubernetes/cmd/kubectl',
  etcd: 'go.etcd.io/etcd/server/v3',
} as const satisfies Partial<Record<ProgramName, string>>;

export const KUBERNETES_PROGRAMS = Object.keys(PACKAGES) as (keyof typeof PACKAGES)[];

/** Kubernetes reads its own version from variables that its release build sets. */
function linkerFlags(): string {
  const { version } = PROGRAMS.kubelet;
  const [major = '', minor = ''] = version.split('.');
  const variables = { gitVersion: `v${version}`, gitMajor: major, gitMinor: minor };
  const set = Object.entries(variables).map(([name, value]) => `-X k8s.io/component-base/version.${name}=${value}`);
  return ['-s', '-w', ...set].join(' ');
}

/** Crash: they are built in a folder beside their place, which is renamed when all are there. */
async function install(installation: Installation): Promise<void> {
  const { env, logFile, progress } = installation;
  const go = findGo(env);
  const module = dirname(toolPath('kubernetes/go.mod'));
  if (go === undefined || !existsSync(join(module, 'go.sum'))) {
    throw new KybernateError('Incompatible', 'Kubernetes is built with Go, in a clone of the repository');
  }
  const target = packageDir(PROGRAMS.kubelet, env);
  const making = `${target}.new`;
  rmSync(making, { recursive: true, force: true });
  mkdirSync(join(making, 'bin'), { recursive: true });
  const line = goProgress();
  for (const [name, path] of Object.entries(PACKAGES)) {
    const flags = ['-v', '-mod=readonly', '-trimpath', '-buildvcs=false', `-ldflags=${linkerFlags()}`];
    await runLong([go, '-C', module, 'build', ...flags, '-o', join(making, 'bin', name), path], {
      env: { ...env, CGO_ENABLED: '1', GOWORK: 'off', GOFLAGS: '', PATH: `${dirname(go)}:${env['PATH'] ?? ''}` },
      logFile,
      onLine: (text) => progress(`${name}: ${line(text)}`),
    });
  }
  rmSync(target, { recursive: true, force: true });
  renameSync(making, target);
}

export const KUBERNETES_STEP: Step = {
  name: 'Kubernetes',
  why: 'a real cluster of one machine for `make e2e-kubernetes`; built from its published modules, 8 minutes',
  neededFor: ['kubernetes'],
  remedy: 'kybernate setup --for kubernetes; see its log',
  check: async (env) => {
    const missing = KUBERNETES_PROGRAMS.filter((name) => describeProgram(name, env) === undefined);
    const { version } = PROGRAMS.kubelet;
    return missing.length > 0
      ? { ok: false, detail: `${missing.join(', ')} not there` }
      : { ok: true, version, detail: join(packageDir(PROGRAMS.kubelet, env), 'bin') };
  },
  install,
};
