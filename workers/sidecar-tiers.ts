/* The store of a sidecar behind its tiers, and its peers, as the variables say. */
import { createServer, type Server } from 'node:http';
import { KybernateError, messageOf } from '../core/errors.ts';
import type { Logger } from '../core/op.ts';
import type { Backend } from '../store/backend/backend.ts';
import { openPeerBackend } from '../store/backend/peer.ts';
import type { Peer } from '../store/tiers/bring.ts';
import { openTiers, type TiersSettings } from '../store/tiers/open.ts';
import { peerRequests, readPeerToken } from '../store/tiers/peer-server.ts';
import { residentBackend } from '../store/tiers/resident.ts';
import type { Tier } from '../store/tiers/tier.ts';
import { TieredBackend } from '../store/tiers/tiered.ts';
import type { SidecarConfig } from './config.ts';
import { opener } from './runtime.ts';

/** Between two looks at what was deleted from the store. */
const TIDY_MS = 1_800_000;
/** The same for what is pinned: few checkpoints, one question each. */
const TIDY_PINS_MS = 60_000;

export interface SidecarTiers {
  /** the store behind the tiers, opened at its first use */
  readonly backend: () => Promise<TieredBackend>;
  /** Opens the tiers and listens for peers: when the process is the user that it stays. */
  start(): Promise<void>;
  close(): Promise<void>;
}

export interface SidecarTiersParts {
  readonly config: SidecarConfig;
  readonly log: Logger;
  /** how the process reaches a directory */
  readonly pathOf: (dir: string) => string;
  readonly openStore: () => Promise<Backend>;
}

/**
 * Reads the token of the peers, which may be root's alone, and opens nothing yet.
 * @throws InvalidInput
 */
export async function sidecarTiers({ config, log, pathOf, openStore }: SidecarTiersParts): Promise<SidecarTiers> {
  const token = await peerToken(config);
  const peers = token === undefined ? [] : openPeers(config, token);
  const { ram, nvme } = tiersSettings(config);
  const tiers = opener(() =>
    openTiers(
      {
        ...(ram === undefined ? {} : { ram: { ...ram, path: pathOf(ram.dir) } }),
        ...(nvme === undefined ? {} : { nvme: { ...nvme, path: pathOf(nvme.dir) } }),
      },
      log,
    ),
  );
  let tiered: TieredBackend | undefined;
  const backend = opener(async () => {
    tiered = new TieredBackend({ store: await openStore(), tiers: await tiers(), peers, log });
    return tiered;
  });
  let server: Server | undefined;
  const timers: NodeJS.Timeout[] = [];
  return {
    backend,
    async start() {
      const address = config.KYBERNATE_PEER_LISTEN;
      const opened = await tiers();
      if (address !== undefined && token !== undefined) {
        server = await listenForPeers(address, opened, token);
        log.info({ address }, 'packs of the tiers are given to peers');
      }
      if (opened.length > 0) {
        const tidy = (): Promise<void> => tidied(backend, log);
        timers.push(setInterval(() => void tidy(), TIDY_MS));
        timers.push(setInterval(() => void tidiedPins(backend, log), TIDY_PINS_MS));
        void tidy();
      }
    },
    async close() {
      timers.forEach((timer) => clearInterval(timer));
      server?.closeAllConnections();
      await new Promise<void>((resolve) => (server === undefined ? resolve() : server.close(() => resolve())));
      await tiered?.close();
      await Promise.all(peers.map((peer) => peer.backend.close()));
    },
  };
}

async function tidied(backend: () => Promise<TieredBackend>, log: Logger): Promise<void> {
  try {
    await (await backend()).tidy();
  } catch (error) {
    // Whatever is wrong with the store: the next look is half an hour away.
    log.warn({ reason: messageOf(error) }, 'not known what was deleted from the store: the tiers stay as they are');
  }
}

async function tidiedPins(backend: () => Promise<TieredBackend>, log: Logger): Promise<void> {
  try {
    await (await backend()).tidy('pins');
  } catch (error) {
    // A store that is away: the pins hold for another minute, and the tidying of everything tells of it.
    log.debug({ reason: messageOf(error) }, 'not known whether pinned checkpoints were deleted');
  }
}

/** Directories of the tiers, which are the sidecar's own. @throws InvalidInput */
export function tierDirs(config: SidecarConfig): string[] {
  const { ram, nvme } = tiersSettings(config);
  return [ram, nvme].flatMap((tier) => tier?.dir ?? []);
}

/** @throws InvalidInput a directory without a budget, or the reverse */
function tiersSettings(config: SidecarConfig): TiersSettings {
  const ram = pair('RAM', config.KYBERNATE_TIER_RAM_DIR, config.KYBERNATE_TIER_RAM_BYTES);
  const nvme = pair('NVME', config.KYBERNATE_TIER_NVME_DIR, config.KYBERNATE_TIER_NVME_BYTES);
  return { ...(ram === undefined ? {} : { ram }), ...(nvme === undefined ? {} : { nvme }) };
}

function pair(name: string, dir: string | undefined, budgetBytes: number | undefined): TiersSettings['ram'] {
  if ((dir === undefined) !== (budgetBytes === undefined)) {
    const [set, missing] = dir === undefined ? ['BYTES', 'DIR'] : ['DIR', 'BYTES'];
    const variable = `KYBERNATE_TIER_${name}_`;
    throw new KybernateError('InvalidInput', `${variable}${set} is set and ${variable}${missing} is not: set both`);
  }
  return dir === undefined || budgetBytes === undefined ? undefined : { dir, budgetBytes };
}

/** undefined: the node has nothing to do with peers */
async function peerToken(config: SidecarConfig): Promise<string | undefined> {
  const { KYBERNATE_PEERS: peers, KYBERNATE_PEER_LISTEN: listen, KYBERNATE_PEER_TOKEN_FILE: file } = config;
  if (peers.length === 0 && listen === undefined) {
    return undefined;
  }
  if (file === undefined) {
    const variable = listen === undefined ? 'KYBERNATE_PEERS' : 'KYBERNATE_PEER_LISTEN';
    throw new KybernateError('InvalidInput', `${variable} needs KYBERNATE_PEER_TOKEN_FILE`);
  }
  return readPeerToken(file);
}

/** The node itself may be in the list, which is then the same on all nodes. */
function openPeers({ KYBERNATE_PEERS: list, KYBERNATE_NODE: own }: SidecarConfig, token: string): Peer[] {
  return list.flatMap((entry) => {
    const at = entry.indexOf('=');
    const node = entry.slice(0, at);
    return node === own ? [] : [{ node, backend: openPeerBackend({ node, url: entry.slice(at + 1), token }) }];
  });
}

/** @throws InvalidInput the address is taken, or not of this machine */
async function listenForPeers(address: string, tiers: readonly Tier[], token: string): Promise<Server> {
  const resident = residentBackend(tiers);
  const server = createServer(peerRequests(() => Promise.resolve(resident), token));
  const at = address.lastIndexOf(':');
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      reject(
        new KybernateError('InvalidInput', `KYBERNATE_PEER_LISTEN: cannot listen on ${address}: ${error.message}`),
      );
    });
    server.listen(Number(address.slice(at + 1)), address.slice(0, at), resolve);
  });
  return server;
}
