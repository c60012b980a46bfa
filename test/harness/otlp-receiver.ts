/* A collector of traces: takes OTLP over HTTP with protobuf, decodes it with the exporter's own messages, keeps all spans. */
import { once } from 'node:events';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';

export interface ReceivedSpan {
  readonly service: string;
  readonly name: string;
  readonly traceId: string;
  readonly spanId: string;
  /** empty: it has none */
  readonly parentSpanId: string;
  readonly startMs: number;
  readonly endMs: number;
  readonly failed: boolean;
}

export interface OtlpReceiver {
  /** for OTEL_EXPORTER_OTLP_ENDPOINT */
  readonly url: string;
  readonly spans: readonly ReceivedSpan[];
  /** Names from the span up to the one without a parent that was received. */
  ancestry(span: ReceivedSpan): string[];
  close(): Promise<void>;
}

interface Decoded {
  readonly resourceSpans: ReadonlyArray<{
    readonly resource: { readonly attributes: ReadonlyArray<{ key: string; value: { stringValue?: string } }> };
    readonly scopeSpans: ReadonlyArray<{
      readonly spans: ReadonlyArray<{
        readonly name: string;
        readonly traceId: Uint8Array;
        readonly spanId: Uint8Array;
        readonly parentSpanId?: Uint8Array;
        readonly startTimeUnixNano: { toNumber(): number };
        readonly endTimeUnixNano: { toNumber(): number };
        readonly status?: { readonly code?: number };
      }>;
    }>;
  }>;
}

/** STATUS_CODE_ERROR of opentelemetry.proto.trace.v1. */
const ERROR = 2;

export async function openOtlpReceiver(): Promise<OtlpReceiver> {
  const exporter = createRequire(createRequire(import.meta.url).resolve('@opentelemetry/exporter-trace-otlp-proto'));
  const { opentelemetry } = exporter('@opentelemetry/otlp-transformer/build/src/generated/root.js') as {
    opentelemetry: {
      proto: { collector: { trace: { v1: { ExportTraceServiceRequest: { decode(body: Uint8Array): Decoded } } } } };
    };
  };
  const message = opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest;
  const spans: ReceivedSpan[] = [];
  const server = createServer((request, response) => {
    const isOurs = request.url === '/v1/traces' && request.headers['content-type'] === 'application/x-protobuf';
    const parts: Buffer[] = [];
    request.on('data', (part: Buffer) => parts.push(part));
    request.on('end', () => {
      spans.push(...(isOurs ? spansOf(message.decode(Buffer.concat(parts))) : []));
      response.writeHead(isOurs ? 200 : 404).end();
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    spans,
    ancestry(span) {
      const names: string[] = [];
      for (let at: ReceivedSpan | undefined = span; at !== undefined;) {
        names.push(at.name);
        const { parentSpanId, traceId }: ReceivedSpan = at;
        at = spans.find((other) => other.spanId === parentSpanId && other.traceId === traceId);
      }
      return names;
    },
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}

function spansOf({ resourceSpans }: Decoded): ReceivedSpan[] {
  return resourceSpans.flatMap(({ resource, scopeSpans }) => {
    const service = resource.attributes.find(({ key }) => key === 'service.name')?.value.stringValue ?? '';
    return scopeSpans.flatMap((scope) =>
      scope.spans.map((span) => ({
        service,
        name: span.name,
        traceId: hex(span.traceId),
        spanId: hex(span.spanId),
        parentSpanId: hex(span.parentSpanId ?? new Uint8Array()),
        startMs: span.startTimeUnixNano.toNumber() / 1e6,
        endMs: span.endTimeUnixNano.toNumber() / 1e6,
        failed: span.status?.code === ERROR,
      })),
    );
  });
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}
