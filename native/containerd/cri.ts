/*
 * The CRI plug-in, by which kubelet runs pods. containerd answers without it, too: a plug-in that could not start, or that
 * is switched off, is no reason for it not to.
 * Source: containerd api/services/introspection/v1; internal/cri/server/status.go (`info.config` of a verbose status).
 */
import { openChannel, QUICK, type Channel } from './channel.ts';

export type CriState =
  | { readonly plugin: 'off' }
  /** `error`: containerd's own words */
  | { readonly plugin: 'failed'; readonly error: string }
  | {
      readonly plugin: 'loaded';
      /** handlers of the configuration that it runs with, and their shims where they name one; absent: it does not tell */
      readonly runtimes?: ReadonlyMap<string, string | undefined>;
    };

interface Plugin {
  readonly type: string;
  readonly id: string;
  readonly initErr: { readonly code: number; readonly message: string } | null;
}

/** Of version 2, and of 1.7: one fails with the other. */
const PLUGINS = ['io.containerd.cri.v1.runtime', 'io.containerd.cri.v1.images', 'io.containerd.grpc.v1.cri'];

/** @throws RuntimeUnavailable containerd or, until it has started, the plug-in does not answer */
export async function criState(address: string): Promise<CriState> {
  const channel = openChannel(address);
  try {
    return await stateOf(channel);
  } finally {
    channel.close();
  }
}

async function stateOf({ call }: Channel): Promise<CriState> {
  const { plugins } = await call<{ plugins: Plugin[] }>(
    'default',
    'introspection.v1.Introspection',
    'Plugins',
    { filters: [] },
    QUICK,
  );
  const parts = plugins.filter(({ type, id }) => PLUGINS.includes(`${type}.${id}`));
  const failed = parts.find(({ initErr }) => (initErr?.message ?? '') !== '');
  if (failed !== undefined) {
    return { plugin: 'failed', error: `${failed.type}.${failed.id}: ${failed.initErr?.message ?? ''}` };
  }
  if (!parts.some(({ type, id }) => `${type}.${id}` === 'io.containerd.grpc.v1.cri')) {
    return { plugin: 'off' };
  }
  const { info } = await call<{ info: Record<string, string> }>(
    'k8s.io',
    'runtime.v1.RuntimeService',
    'Status',
    { verbose: true },
    QUICK,
  );
  const runtimes = runtimesOf(info['config']);
  return { plugin: 'loaded', ...(runtimes === undefined ? {} : { runtimes }) };
}

function runtimesOf(config: string | undefined): ReadonlyMap<string, string | undefined> | undefined {
  const { containerd } = JSON.parse(config ?? '{}') as {
    containerd?: { runtimes?: Record<string, { runtimePath?: string }> };
  };
  const runtimes = containerd?.runtimes;
  return runtimes === undefined
    ? undefined
    : new Map(
        Object.entries(runtimes).map(([handler, { runtimePath }]) => [
          handler,
          runtimePath === '' ? undefined : runtimePath,
        ]),
      );
}
