/* Sends anything to a socket of ours that speaks HTTP/1 and gRPC, and tells how it was answered. Every answer has its time. */
import { connect as connectHttp2, constants } from 'node:http2';
import { connect } from 'node:net';

export interface Answer {
  /** `closed`: the connection or the stream ended without one */
  readonly by: 'http' | 'grpc' | 'closed';
  /** status of HTTP, code of gRPC, or code of the reset */
  readonly code: number;
  /** body, or message of gRPC */
  readonly text: string;
  /** name of the error; empty where the protocol itself refuses */
  readonly type: string;
}

/** Nothing that is refused takes longer. */
const ANSWER_MS = 15_000;

/**
 * Bytes on a connection of their own.
 * @param hangUp the caller ends the connection after them
 * @throws when neither an answer nor the end comes in time
 */
export function sendBytes(socketPath: string, bytes: Buffer, hangUp = false): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const socket = connect(socketPath);
    const parts: Buffer[] = [];
    const late = setTimeout(() => {
      socket.destroy();
      reject(new Error(`no answer in ${ANSWER_MS} ms`));
    }, ANSWER_MS);
    // Who sends on to somebody who has answered is told so by EPIPE.
    socket.on('error', () => undefined);
    socket.on('data', (part: Buffer) => parts.push(part));
    socket.once('close', () => {
      clearTimeout(late);
      resolve(answerIn(Buffer.concat(parts).toString('latin1')));
    });
    socket.write(bytes, () => {
      if (hangUp) {
        socket.end();
      }
    });
  });
}

function answerIn(text: string): Answer {
  const status = /^HTTP\/1\.1 (\d{3})/.exec(text)?.[1];
  const body = /\r\n\r\n(.*)$/s.exec(text)?.[1] ?? '';
  const type = /"error":\{"type":"(\w+)"/.exec(body)?.[1] ?? '';
  return status === undefined
    ? { by: 'closed', code: 0, text, type: '' }
    : { by: 'http', code: Number(status), text: body, type };
}

export interface HttpCall {
  readonly method: string;
  /** as it is sent */
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Buffer;
}

/** One request of HTTP/1, after which the connection ends. */
export function sendHttp(socketPath: string, { method, path, headers = {}, body }: HttpCall): Promise<Answer> {
  const given = {
    host: 'agent',
    connection: 'close',
    ...(body === undefined ? {} : { 'content-length': String(body.length) }),
    ...headers,
  };
  const lines = Object.entries(given).map(([name, value]) => `${name}: ${value}\r\n`);
  const head = Buffer.from(`${method} ${path} HTTP/1.1\r\n${lines.join('')}\r\n`, 'latin1');
  return sendBytes(socketPath, body === undefined ? head : Buffer.concat([head, body]));
}

/** A message as gRPC frames it. @param length what its prefix says */
export function frame(message: Buffer, flag = 0, length = message.length): Buffer {
  const prefix = Buffer.alloc(5);
  prefix.writeUInt8(flag, 0);
  prefix.writeUInt32BE(length, 1);
  return Buffer.concat([prefix, message]);
}

/** A call of gRPC, frame by frame. @throws when it is not over in time */
export function sendFrames(
  socketPath: string,
  path: string,
  frames: readonly Buffer[],
  headers: Readonly<Record<string, string>> = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const session = connectHttp2('http://agent', { createConnection: () => connect(socketPath) });
    let seen: Readonly<Record<string, unknown>> = {};
    const late = setTimeout(() => {
      session.destroy();
      reject(new Error(`no answer in ${ANSWER_MS} ms`));
    }, ANSWER_MS);
    session.on('error', () => undefined);
    const stream = session.request({
      ':method': 'POST',
      ':path': path,
      'content-type': 'application/grpc',
      te: 'trailers',
      ...headers,
    });
    stream.on('error', () => undefined);
    const note = (more: Readonly<Record<string, unknown>>): void => {
      seen = { ...seen, ...more };
    };
    stream.on('response', note);
    stream.on('trailers', note);
    stream.resume();
    stream.once('close', () => {
      clearTimeout(late);
      session.close();
      resolve(answerOf(seen, stream.rstCode ?? 0));
    });
    for (const part of frames) {
      stream.write(part);
    }
    stream.end();
  });
}

function answerOf(headers: Readonly<Record<string, unknown>>, resetCode: number): Answer {
  const status = headers['grpc-status'];
  const textOf = (name: string): string => {
    const value = headers[name];
    return typeof value === 'string' ? value : '';
  };
  const type = textOf('kybernate-error');
  if (typeof status === 'string' || typeof status === 'number') {
    const text = decodeURI(textOf('grpc-message').replaceAll(/%(?![0-9A-F]{2})/gi, '%25'));
    return { by: 'grpc', code: Number(status), text, type };
  }
  const http = Number(headers[constants.HTTP2_HEADER_STATUS] ?? 0);
  return http === 0 ? { by: 'closed', code: resetCode, text: '', type } : { by: 'http', code: http, text: '', type };
}
