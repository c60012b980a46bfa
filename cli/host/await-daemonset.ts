/*
 * node await-daemonset.js <namespace> <name>: ends when the pods of a DaemonSet are ready on every node that it is meant
 * for. Run by the chart's uninstallation in a pod, with an account that may read this one object.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { AppsV1Api, KubeConfig, type V1DaemonSet } from '@kubernetes/client-node';

const PERIOD_MS = 1000;

function isReady({ metadata, status }: V1DaemonSet): boolean {
  return (
    status !== undefined &&
    status.observedGeneration === metadata?.generation &&
    status.numberReady === status.desiredNumberScheduled
  );
}

const [namespace = '', name = ''] = process.argv.slice(2);
const config = new KubeConfig();
config.loadFromCluster();
const apps = config.makeApiClient(AppsV1Api);
while (!isReady(await apps.readNamespacedDaemonSet({ namespace, name }))) {
  await sleep(PERIOD_MS);
}
