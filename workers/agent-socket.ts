/*
 * One unix socket for gRPC and for JSON over HTTP: the first bytes of a connection tell which it is. Who connects is asked
 * of the kernel first. The socket is root's alone (0600) and lies in a directory of root's, so nobody else gets so far;
 * a descriptor can be handed on, though, and a mode be changed by hand.
 */
import { chmodSync, mkdirSync, rmSync } from 'node:fs';
import type { Server as HttpServer } from 'node:http';
import { createServer, type Server, type Socket } from 'node:net';
import { KybernateError, messageOf } from '../core/errors.ts';
import type { Logger } from '../core/op.ts';
import { peerCredentials, type PeerCredentials } from '../native/libc/peer.ts';
import type { Injector } from './agent-grpc.ts';
import { answers, listen } from './unix-socket.ts';

/** Of the connection preface "PRI * HTTP/2.0"; no method of HTTP/1 begins so. Source: RFC 9113, 3.4. */
const HTTP2 = Buffer.from('PRI');
const DRAIN_MS = 2000;
const IDLE_POLL_MS = 50;
/** For a caller that sends its first bytes one by one. */
const MORE_MS = 20;
/** After so long they are left to HTTP/1, which refuses them: nobody tells us when a caller went away in the middle. */
const FIRST_BYTES_MS = 1000;

export interface SocketParts {
  readonly http: HttpServer;
  /** asked for once, by the first connection that speaks it */
  readonly grpc: () => Promise<Injector>;
  readonly log: Logger;
  /** who connected, by the descriptor of the connection; literal fakes in tests */
  readonly peerOf?: (fd: number) => PeerCredentials;
}

export interface ListeningSocket {
  /** No new connections; waits for the calls under way, those of gRPC at most two seconds. */
  close(): Promise<void>;
}

/**
 * Replaces the socket of an agent that died.
 * @throws Internal another agent answers there
 */
export async function listenForAgents(path: string, runDir: string, parts: SocketParts): Promise<ListeningSocket> {
  // Others may pass through it, to the sockets of the sidecar; everything of ours in it is closed by its own mode.
  mkdirSync(runDir, { recursive: true, mode: 0o711 });
  chmodSync(runDir, 0o711);
  if (await answers(path)) {
    throw new KybernateError('Internal', `another agent serves ${path}; one node has one worker`);
  }
  rmSync(path, { force: true });
  /** connected, and not in the middle of a call of HTTP/1; those of gRPC are its own to close */
  const idle = new Set<Socket>();
  parts.http.on('request', ({ socket }, response) => {
    idle.delete(socket);
    response.once('close', () => idle.add(socket));
  });
  let opened: Promise<Injector> | undefined;
  const grpc = (): Promise<Injector> => (opened ??= parts.grpc());
  const server = createServer((socket) => accept(socket, { ...parts, grpc }, idle));
  // What others of this process make while we wait keeps a mode of its own.
  const before = process.umask(0o177);
  const up = listen(server, path);
  process.umask(before);
  await up;
  // No descriptor is left for a connection: its caller is refused, and the worker goes on.
  server.on('error', (error) => parts.log.error({ error: messageOf(error) }, 'a connection could not be accepted'));
  chmodSync(path, 0o600);
  return { close: () => close(server, opened, idle) };
}

function accept(socket: Socket, parts: SocketParts, idle: Set<Socket>): void {
  socket.on('error', () => socket.destroy());
  let stranger: PeerCredentials | undefined;
  try {
    stranger = strangerOf(socket, parts.peerOf ?? peerCredentials);
  } catch {
    // It has gone again.
    socket.destroy();
    return;
  }
  if (stranger !== undefined) {
    parts.log.warn({ ...stranger }, 'a connection to the agent was refused: it is for root alone');
    socket.destroy();
    return;
  }
  idle.add(socket);
  socket.once('close', () => idle.delete(socket));
  socket.once('readable', () => hand(socket, parts, { idle, until: performance.now() + FIRST_BYTES_MS }));
}

interface Handing {
  readonly idle: Set<Socket>;
  /** by performance.now() */
  readonly until: number;
}

/** To the protocol that its first bytes are of. */
function hand(socket: Socket, parts: SocketParts, handing: Handing): void {
  const first = socket.read() as Buffer | null;
  if (first === null) {
    // Its end came first.
    socket.destroy();
    return;
  }
  socket.unshift(first);
  const mayBecome = first.length < HTTP2.length && HTTP2.subarray(0, first.length).equals(first);
  if (mayBecome && performance.now() < handing.until) {
    setTimeout(() => hand(socket, parts, handing), MORE_MS);
    return;
  }
  if (first.subarray(0, HTTP2.length).equals(HTTP2)) {
    parts.grpc().then(
      (grpc) => {
        handing.idle.delete(socket);
        if (!socket.destroyed) {
          grpc.injectConnection(socket);
        }
      },
      (error: unknown) => {
        parts.log.error({ error: messageOf(error) }, 'gRPC cannot be served');
        socket.destroy();
      },
    );
  } else {
    parts.http.emit('connection', socket);
  }
}

/** @returns who it is, when neither root nor the user of this process */
function strangerOf(socket: Socket, peerOf: (fd: number) => PeerCredentials): PeerCredentials | undefined {
  // Node has no other way to the descriptor of a connection.
  const { _handle: handle } = socket as unknown as { readonly _handle?: { readonly fd?: number } | null };
  const fd = handle?.fd ?? -1;
  const peer = peerOf(fd);
  return peer.uid === 0 || peer.uid === process.geteuid?.() ? undefined : peer;
}

/** @param grpc undefined: nobody has spoken it */
async function close(server: Server, grpc: Promise<Injector> | undefined, idle: ReadonlySet<Socket>): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  // What failed was told to the log.
  (await grpc?.catch(() => undefined))?.drain(DRAIN_MS);
  const endIdle = (): void => idle.forEach((socket) => socket.destroy());
  // A connection that is kept alive is idle from the end of its call on.
  const again = setInterval(endIdle, IDLE_POLL_MS);
  endIdle();
  await closed;
  clearInterval(again);
}
