/* What the programs of the cluster are told: their files and arguments, below one directory. */
import { join } from 'node:path';

/** Inside the network namespace of the cluster, so the same for every cluster of the machine. */
export const ADDRESSES = {
  node: '10.123.0.1',
  /** first of the service range: `kubernetes.default` */
  api: '10.125.0.1',
  services: '10.125.0.0/24',
  pods: '10.124.0.0/24',
} as const;
export const API_PORT = 443;
const ETCD = 'http://127.0.0.1:2379';
const ETCD_PEER = 'http://127.0.0.1:2380';

export interface ClusterPaths {
  readonly dir: string;
  readonly kubeconfig: string;
  /** containerd's configuration, as a user has it: no runtime but runc */
  readonly containerdConfig: string;
  readonly containerdSocket: string;
  readonly kubeletDir: string;
  readonly cgroupRoot: string;
}

/** @param token of a user of group system:masters */
export function kubeconfigText(token: string, server: string): string {
  return `apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "${server}", insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: "${token}"}}]
contexts: [{name: test, context: {cluster: test, user: admin}}]
current-context: test
`;
}

/** Version 3: from version 4 on the address is read from a plug-in's section. */
export function containerdConfigText(
  paths: ClusterPaths,
  options: { cniDirs: readonly string[]; pauseImage: string; restrictOomScoreAdj: boolean },
): string {
  const text = (value: unknown): string => JSON.stringify(value);
  return `version = 3
root = ${text(join(paths.dir, 'root'))}
state = ${text(join(paths.dir, 'state'))}
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.image-verifier.v1.bindir"]
[grpc]
  address = ${text(paths.containerdSocket)}
[plugins.'io.containerd.internal.v1.opt']
  path = ${text(join(paths.dir, 'opt'))}
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = ${text(options.pauseImage)}
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = ${options.restrictOomScoreAdj}
  netns_mounts_under_state_dir = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ${text(options.cniDirs)}
    conf_dir = ${text(join(paths.dir, 'cni'))}
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
`;
}

export function cniConfigText({ dir }: ClusterPaths): string {
  const ipam = {
    type: 'host-local',
    dataDir: join(dir, 'cni-data'),
    ranges: [[{ subnet: ADDRESSES.pods }]],
    routes: [{ dst: '0.0.0.0/0' }],
  };
  const bridge = { type: 'bridge', bridge: 'pods0', isGateway: true, ipam };
  return JSON.stringify({ cniVersion: '1.0.0', name: 'pods', plugins: [bridge] });
}

export function kubeletConfigText(paths: ClusterPaths): string {
  const { dir, kubeletDir } = paths;
  return JSON.stringify({
    apiVersion: 'kubelet.config.k8s.io/v1beta1',
    kind: 'KubeletConfiguration',
    failCgroupV1: false,
    cgroupDriver: 'cgroupfs',
    cgroupRoot: paths.cgroupRoot,
    containerRuntimeEndpoint: `unix://${paths.containerdSocket}`,
    authentication: { anonymous: { enabled: true }, webhook: { enabled: false } },
    authorization: { mode: 'AlwaysAllow' },
    address: ADDRESSES.node,
    failSwapOn: false,
    enforceNodeAllocatable: [],
    localStorageCapacityIsolation: false,
    evictionHard: { 'memory.available': '50Mi' },
    resolvConf: join(dir, 'resolv.conf'),
    // Nobody answers names there; without one the kubelet writes an event at every look at every pod.
    clusterDNS: ['127.0.0.1'],
    clusterDomain: 'cluster.local',
    podLogsDir: join(dir, 'pod-logs'),
    volumePluginDir: join(kubeletDir, 'volume-plugins'),
    // A restored pod is seen as running at the next look at the runtime; once a second is the default.
    syncFrequency: '10s',
  });
}

function flags(values: Readonly<Record<string, string>>): string[] {
  return Object.entries(values).map(([name, value]) => `--${name}=${value}`);
}

export function etcdArgs({ dir }: ClusterPaths): string[] {
  return flags({
    'data-dir': join(dir, 'etcd'),
    'unsafe-no-fsync': 'true',
    'log-level': 'warn',
    'listen-client-urls': ETCD,
    'advertise-client-urls': ETCD,
    'listen-peer-urls': ETCD_PEER,
  });
}

export function apiserverArgs({ dir }: ClusterPaths): string[] {
  return flags({
    'etcd-servers': ETCD,
    'bind-address': '0.0.0.0',
    'advertise-address': ADDRESSES.node,
    'secure-port': String(API_PORT),
    'cert-dir': join(dir, 'certs/apiserver'),
    'token-auth-file': join(dir, 'tokens.csv'),
    'authorization-mode': 'Node,RBAC',
    'service-account-key-file': join(dir, 'sa.key'),
    'service-account-signing-key-file': join(dir, 'sa.key'),
    'service-account-issuer': 'https://kubernetes.default.svc',
    'service-cluster-ip-range': ADDRESSES.services,
    'allow-privileged': 'true',
    'kubelet-preferred-address-types': 'InternalIP',
    'shutdown-delay-duration': '0s',
  });
}

/** Both controllers act as the administrator. */
function controllerFlags({ dir, kubeconfig }: ClusterPaths, name: string): string[] {
  return flags({
    kubeconfig,
    'authentication-kubeconfig': kubeconfig,
    'authorization-kubeconfig': kubeconfig,
    'bind-address': '127.0.0.1',
    'leader-elect': 'false',
    'cert-dir': join(dir, 'certs', name),
  });
}

export function controllerManagerArgs(paths: ClusterPaths): string[] {
  return controllerFlags(paths, 'controller-manager').concat(
    flags({
      'service-account-private-key-file': join(paths.dir, 'sa.key'),
      'use-service-account-credentials': 'true',
      // The server's certificate and the authority that it made for itself, for pods.
      'root-ca-file': join(paths.dir, 'certs/apiserver/apiserver.crt'),
    }),
  );
}

export function schedulerArgs(paths: ClusterPaths): string[] {
  return controllerFlags(paths, 'scheduler');
}

export function kubeletArgs({ dir, kubeconfig, kubeletDir }: ClusterPaths, node: string): string[] {
  return flags({
    config: join(dir, 'kubelet.json'),
    kubeconfig,
    'root-dir': kubeletDir,
    'cert-dir': join(dir, 'certs/kubelet'),
    'hostname-override': node,
    'node-ip': ADDRESSES.node,
  });
}
