/*
 * Spans of a workflow, for the bundle that control workers run where traces are on. Temporal's own interceptors, with two
 * differences. Ids of spans come from a stream of random numbers of their own: from the workflow's, an operation that is
 * replayed by a worker without traces would find another checkpoint id than the one it began with. And what is no part of
 * an operation's story has no span: locks, which live across operations, queries, and reports of progress.
 */
// First: it gives the sandbox the clock that OpenTelemetry looks for when it is loaded.
import {
  OpenTelemetryInboundInterceptor,
  OpenTelemetryInternalsInterceptor,
  OpenTelemetryOutboundInterceptor,
} from '@temporalio/interceptors-opentelemetry/lib/workflow/index.js';
import { SpanExporter } from '@temporalio/interceptors-opentelemetry/lib/workflow/span-exporter.js';
import type { Tracer } from '@opentelemetry/api';
import { BasicTracerProvider, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base';
import { getRandomStream, workflowInfo, type WorkflowInterceptors } from '@temporalio/workflow';

/** As in @temporalio/interceptors-opentelemetry. */
const TRACE_HEADER = '_tracer-data';
const LOCK = 'containerLock';

class TracedInbound extends OpenTelemetryInboundInterceptor {
  protected override readonly tracer = tracerOfWorkflow();

  override async handleSignal(
    ...[input, next]: Parameters<OpenTelemetryInboundInterceptor['handleSignal']>
  ): Promise<void> {
    return input.headers[TRACE_HEADER] === undefined ? next(input) : super.handleSignal(input, next);
  }

  override async handleQuery(
    ...[input, next]: Parameters<OpenTelemetryInboundInterceptor['handleQuery']>
  ): Promise<unknown> {
    return next(input);
  }
}

class TracedOutbound extends OpenTelemetryOutboundInterceptor {
  protected override readonly tracer = tracerOfWorkflow();
}

function tracerOfWorkflow(): Tracer {
  const stream = getRandomStream('kybernate-spans');
  const hex = (bytes: number): string =>
    Array.from({ length: bytes }, () => Math.floor(stream.random() * 256))
      .map((byte) => byte.toString(16).padStart(2, '0'))
      .join('');
  const provider = new BasicTracerProvider({
    idGenerator: { generateTraceId: () => hex(16), generateSpanId: () => hex(8) },
    spanProcessors: [new SimpleSpanProcessor(new SpanExporter())],
  });
  return provider.getTracer('kybernate-workflow');
}

/** Called once for every run of a workflow, inside of it. */
export function interceptors(): WorkflowInterceptors {
  return workflowInfo().workflowType === LOCK
    ? {}
    : {
        inbound: [new TracedInbound()],
        outbound: [new TracedOutbound()],
        internals: [new OpenTelemetryInternalsInterceptor()],
      };
}
