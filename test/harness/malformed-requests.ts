/* Requests to the agent that are wrong: by a field, a body, a frame or a byte; as JSON over HTTP and by gRPC. */
import { serviceOf, loadProto } from '../../workers/grpc-service.ts';
import { AGENT_SHAPES, CONTAINER } from './agent-shapes.ts';
import { malformed, pick, shown, withField, wrongValue, type FieldKind, type Shape } from './malformed.ts';
import { frame, sendBytes, sendFrames, sendHttp, type Answer } from './refusals.ts';

type Random = () => number;

export interface MalformedRequest {
  readonly what: string;
  readonly send: (socketPath: string) => Promise<Answer>;
  /** it is no request of any protocol: the end of the connection is answer enough */
  readonly noRequest?: true;
}

const KINDS = [
  wrongJson,
  wrongJson,
  wrongJson,
  wrongBody,
  wrongPath,
  wrongBytes,
  wrongMessage,
  wrongMessage,
  wrongFrame,
];

/** One of each kind, in turn. */
export function malformedRequest(turn: number, random: Random): MalformedRequest {
  const kind = KINDS[turn % KINDS.length] ?? wrongJson;
  return kind(random);
}
export const EVERY_KIND = KINDS.length;

/** No trace is joined by these, and none of them is a reason to refuse. */
const TRACES = ['', 'garbage', '00-zz-zz-01', `00-${'0'.repeat(32)}-${'0'.repeat(16)}-01`, 'x'.repeat(4000)];

function post(path: string, what: string, body: Buffer, headers: Readonly<Record<string, string>> = {}) {
  return {
    what: `POST /v1/${path}: ${what}`,
    send: (socket: string) => sendHttp(socket, { method: 'POST', path: `/v1/${path}`, headers, body }),
  };
}

function wrongJson(random: Random): MalformedRequest {
  const [path, shape] = pick(Object.entries<Shape>(AGENT_SHAPES), random);
  const { what, body } = malformed(shape, random);
  return post(path, what, Buffer.from(JSON.stringify(body)), { traceparent: pick(TRACES, random) });
}

function wrongBody(random: Random): MalformedRequest {
  const path = pick(Object.keys(AGENT_SHAPES), random);
  const deep = 10 + Math.floor(random() * 100_000);
  const key = '\\u005f_proto__';
  const bodies: ReadonlyArray<readonly [string, Buffer]> = [
    ['nothing', Buffer.alloc(0)],
    ['half of it', Buffer.from('{"container":{"id":')],
    ['two of them', Buffer.from('{}{}')],
    ['a comment', Buffer.from('{} // no')],
    ['NaN', Buffer.from('{"waitMs":NaN}')],
    [`${deep} arrays`, Buffer.from('['.repeat(deep) + ']'.repeat(deep))],
    [`${deep} arrays in a field`, Buffer.from(`{"container":${'['.repeat(deep)}${']'.repeat(deep)}}`)],
    [
      'no UTF-8',
      Buffer.concat([Buffer.from('{"container":{"id":"'), Buffer.from([0xc3, 0x28, 0xff]), Buffer.from('"}}')]),
    ],
    ['a hidden prototype', Buffer.from(`{"container":{"id":"nobody"},"${key}":{"node":"x"}}`)],
    ['random bytes', randomBytes(random, 2000)],
    ['a megabyte', Buffer.from(JSON.stringify({ container: { id: 'x'.repeat(2 ** 20) } }))],
    ['ten thousand keys', Buffer.from(JSON.stringify(Object.fromEntries(manyKeys(10_000))))],
    [
      'ten thousand labels',
      Buffer.from(JSON.stringify({ container: CONTAINER, labels: Object.fromEntries(manyKeys(10_000)) })),
    ],
  ];
  const [what, body] = pick(bodies, random);
  return post(path, what, body);
}

function manyKeys(count: number): Array<[string, number]> {
  return Array.from({ length: count }, (_, at) => [`key-${at}`, at]);
}

function wrongPath(random: Random): MalformedRequest {
  const word = encodeURIComponent(
    String(wrongValue('word', random, (value) => typeof value === 'string' && value !== '' && value.isWellFormed())),
  );
  const [method, path] = pick(
    [
      ['GET', `/v1/operations/${word}`],
      ['GET', `/v1/operations/${word}/watch`],
      ['GET', `/v1/operations/nobody?runId=${word}`],
      ['GET', '/v1/operations/%E0%A4%A'],
      ['GET', '/v1/operations/%00'],
      ['GET', '/v1/operations/'],
      ['GET', `/v1/checkpoints?limit=${word}`],
      ['GET', `/v1/checkpoints?limit=${String(pick([-1, 0, 0.5, 1e300, 'NaN'], random))}`],
      ['GET', `/v1/checkpoints?localOnly=${word}`],
      ['GET', `/v1/checkpoints?${word}=1`],
      ['GET', `/v1/${word}`],
      ['GET', '//'],
      ['GET', '/../../etc/passwd'],
      ['GET', 'http://elsewhere:99999/v1/health'],
      ['DELETE', '/v1/health'],
      ['PUT', '/v1/checkpoint'],
      ['OPTIONS', '*'],
      ['CONNECT', 'elsewhere:443'],
      ['TRACE', '/v1/health'],
    ] as const,
    random,
  );
  return { what: `${method} ${path.slice(0, 80)}`, send: (socket) => sendHttp(socket, { method, path }) };
}

function wrongBytes(random: Random): MalformedRequest {
  const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
  const post = 'POST /v1/checkpoint HTTP/1.1\r\nhost: agent\r\n';
  const [what, bytes] = pick<readonly [string, Buffer]>(
    [
      ['random bytes', randomBytes(random, 500)],
      ['P', Buffer.from('P')],
      ['PR', Buffer.from('PR')],
      ['half of the preface', preface.subarray(0, 12)],
      ['the preface and random bytes', Buffer.concat([preface, randomBytes(random, 500)])],
      ['a frame before the settings', Buffer.concat([preface, Buffer.from('000001010500000001', 'hex')])],
      ['another version', Buffer.from('GET /v1/health HTTP/9.9\r\n\r\n')],
      ['no host', Buffer.from('GET /v1/health HTTP/1.1\r\n\r\n')],
      ['a header without end', Buffer.from(`GET /v1/health HTTP/1.1\r\nx: ${'y'.repeat(100_000)}`)],
      ['a body that ends early', Buffer.from(`${post}content-length: 100\r\n\r\n{"container"`)],
      ['a length that is none', Buffer.from(`${post}content-length: -5\r\n\r\n{}`)],
      ['two lengths', Buffer.from(`${post}content-length: 2\r\ncontent-length: 3\r\n\r\n{}`)],
      ['a length and chunks', Buffer.from(`${post}content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}`)],
      ['a chunk that is none', Buffer.from(`${post}transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n`)],
      ['TLS', Buffer.from('16030100a5010000a1', 'hex')],
    ],
    random,
  );
  return { what: `bytes: ${what}`, send: (socket) => sendBytes(socket, bytes, true), noRequest: true };
}

const SERVICE = 'kybernate.agent.v1.NodeAgentService';
const METHODS = serviceOf(loadProto('agent.proto'), SERVICE);
/** Calls of gRPC: what is valid but for one field. */
const MESSAGES: Readonly<Record<string, Pick<Shape, 'valid' | 'fields'>>> = {
  Checkpoint: AGENT_SHAPES.checkpoint,
  Restore: AGENT_SHAPES.restore,
  PrepareRestore: AGENT_SHAPES['prepare-restore'],
  CompleteRestore: AGENT_SHAPES['complete-restore'],
  GetOperationStatus: { valid: { workflowId: 'nobody' }, fields: { workflowId: 'word', runId: 'word' } },
  WatchOperation: { valid: { workflowId: 'nobody' }, fields: { workflowId: 'word', runId: 'word' } },
  ListCheckpoints: { valid: {}, fields: { limit: 'count' } },
};
/** What a field of protobuf can hold and its contract cannot. */
const SENDABLE: Partial<Record<FieldKind, (value: unknown) => boolean>> = {
  word: isText,
  path: isText,
  choice: isText,
  count: (value) => typeof value === 'number' && Number.isInteger(value) && Math.abs(value) <= 2 ** 60,
};

function isText(value: unknown): boolean {
  return typeof value === 'string' && value.isWellFormed();
}

const pathOf = (call: string): string => `/${SERVICE}/${call}`;

function wrongMessage(random: Random): MalformedRequest {
  const [call, { valid, fields }] = pick(Object.entries(MESSAGES), random);
  // JSON alone may name the node.
  const sendable = Object.keys(fields).filter(
    (path) => path !== 'node' && SENDABLE[fields[path] ?? 'text'] !== undefined,
  );
  const field = pick(sendable, random);
  const kind = fields[field] ?? 'word';
  const value = wrongValue(kind, random, SENDABLE[kind]);
  const message = METHODS[call]?.requestSerialize(withField(valid, field, value)) ?? Buffer.alloc(0);
  return {
    what: `${call}: ${field} = ${shown(value)}`,
    send: (socket) => sendFrames(socket, pathOf(call), [frame(message)], { traceparent: pick(TRACES, random) }),
  };
}

function wrongFrame(random: Random): MalformedRequest {
  const call = pick(Object.keys(MESSAGES).slice(0, -1), random);
  const junk = randomBytes(random, 300);
  // Field 3 as a number, and a text that is longer than the message.
  const wrongType = Buffer.from('1807', 'hex');
  const tooLong = Buffer.from('0affffff7f61', 'hex');
  const [what, frames, headers, path] = pick<
    readonly [string, readonly Buffer[], Readonly<Record<string, string>>?, string?]
  >(
    [
      ['random bytes', [frame(junk)]],
      ['a field of another type', [frame(wrongType)]],
      ['a text beyond the end', [frame(tooLong)]],
      ['no frame', []],
      ['half a prefix', [Buffer.from([0, 0])]],
      ['a frame that ends early', [frame(junk, 0, 100_000)]],
      ['a frame of 4 GiB', [frame(junk, 0, 2 ** 32 - 1)]],
      ['five megabytes', [frame(Buffer.alloc(5 * 2 ** 20))]],
      ['two messages', [frame(Buffer.alloc(0)), frame(Buffer.alloc(0))]],
      ['a flag that is none', [frame(tooLong, 7)]],
      ['no gzip', [frame(junk, 1)], { 'grpc-encoding': 'gzip' }],
      ['an encoding that nobody knows', [frame(junk, 1)], { 'grpc-encoding': 'nonsense' }],
      ['JSON', [Buffer.from('{}')], { 'content-type': 'application/json' }],
      ['another method', [], { ':method': 'GET' }],
      ['another call', [frame(junk)], {}, `/${SERVICE}/${pick(['Format', '', 'constructor', '__proto__'], random)}`],
      ['another service', [frame(junk)], {}, '/grpc.nothing.v1.Service/Call'],
      ['no path of a call', [frame(junk)], {}, pick(['/', '/../../etc/passwd', `/${'x'.repeat(5000)}`], random)],
      ['a long header', [frame(tooLong)], { 'x-long': 'y'.repeat(10_000), 'x-bin': '%%%' }],
    ],
    random,
  );
  return {
    what: `gRPC ${path ?? call}: ${what}`.slice(0, 120),
    send: (socket) => sendFrames(socket, path ?? pathOf(call), frames, headers),
  };
}

function randomBytes(random: Random, most: number): Buffer {
  return Buffer.from(Array.from({ length: 1 + Math.floor(random() * most) }, () => Math.floor(random() * 256)));
}
