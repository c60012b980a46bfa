/*
 * The one place that knows OpenTelemetry: a provider that sends spans by OTLP, the interceptors of Temporal's SDK, and the
 * listener of core/spans.ts. What the standard variables say of headers, sampling, limits and resources is read by the
 * libraries themselves.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import { createRequire } from 'node:module';
import { hostname } from 'node:os';
import {
  DiagLogLevel,
  ROOT_CONTEXT,
  SpanStatusCode,
  context,
  diag,
  trace,
  type Context,
  type ContextManager,
  type Span,
  type Tracer,
} from '@opentelemetry/api';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-proto';
import { Resource, envDetectorSync } from '@opentelemetry/resources';
import { BasicTracerProvider, BatchSpanProcessor } from '@opentelemetry/sdk-trace-base';
import type { WorkflowClientInterceptor } from '@temporalio/client';
import {
  OpenTelemetryActivityInboundInterceptor,
  OpenTelemetryActivityOutboundInterceptor,
  OpenTelemetryWorkflowClientInterceptor,
  makeWorkflowExporter,
} from '@temporalio/interceptors-opentelemetry';
import type { ActivityInterceptorsFactory, InjectedSinks } from '@temporalio/worker';
import type { Sinks } from '@temporalio/workflow';
import { messageOf } from '../core/errors.ts';
import type { Logger } from '../core/op.ts';
import { listenToSpans, type PastSpan, type SpanListener } from '../core/spans.ts';
import type { Environment } from './config.ts';

export interface Tracing {
  readonly on: boolean;
  /** for `WorkerOptions.interceptors.activity`, outermost */
  readonly activity: readonly ActivityInterceptorsFactory[];
  /** for clients that start operations */
  readonly client: readonly WorkflowClientInterceptor[];
  /** for a worker that runs workflows, whose bundle must be the traced one */
  readonly sinks: InjectedSinks<Sinks>;
  /** Sends what is left, for a few seconds at most. */
  close(): Promise<void>;
}

export interface TracingParts {
  /** `service.name`, unless OTEL_SERVICE_NAME says otherwise */
  readonly service: 'kybernate' | 'kybernate-control' | 'kybernate-node' | 'kybernate-operator' | 'kybernate-sidecar';
  readonly env: Environment;
  readonly node?: string;
  /** absent: what goes wrong with traces is not told */
  readonly log?: Logger;
}

/** A collector that is away must not keep a process from its end. */
const FLUSH_MS = 3000;

export function startOpenTelemetry({ service, node, log, url }: TracingParts & { readonly url: string }): Tracing {
  preloadTransport();
  if (log !== undefined) {
    diag.setLogger(diagLog(log), { logLevel: DiagLogLevel.WARN, suppressOverrideMessage: true });
  }
  const resource = new Resource({
    'service.name': service,
    'host.name': hostname(),
    ...(node === undefined ? {} : { 'kybernate.node': node }),
  }).merge(envDetectorSync.detect());
  const processor = new BatchSpanProcessor(new OTLPTraceExporter({ url }));
  const provider = new BasicTracerProvider({ resource, spanProcessors: [processor] });
  provider.register({ contextManager: new FollowingContext() });
  listenToSpans(listenerOf(provider.getTracer('kybernate')));
  log?.info({ url }, 'traces are sent');
  return {
    on: true,
    activity: [
      (activity) => ({
        inbound: new OpenTelemetryActivityInboundInterceptor(activity),
        outbound: new OpenTelemetryActivityOutboundInterceptor(activity),
      }),
    ],
    client: [quietClient()],
    sinks: { exporter: makeWorkflowExporter(processor, resource) },
    async close() {
      listenToSpans(undefined);
      const late = new Promise<void>((resolve) => setTimeout(resolve, FLUSH_MS).unref());
      const flushed = provider.shutdown().catch((error: unknown) => {
        log?.warn({ error: messageOf(error) }, 'the last traces could not be sent');
      });
      await Promise.race([flushed, late]);
    },
  };
}

/** The exporter loads it when it sends for the first time: by then a sidecar may not read its own code any more. */
function preloadTransport(): void {
  const ofExporter = createRequire(createRequire(import.meta.url).resolve('@opentelemetry/otlp-exporter-base'));
  ofExporter('./transport/http-transport-utils.js');
}

function diagLog(log: Logger): Parameters<typeof diag.setLogger>[0] {
  const tell =
    (level: 'debug' | 'warn' | 'error') =>
    (message: string): void =>
      log[level]({ error: message }, 'traces');
  return {
    verbose: tell('debug'),
    debug: tell('debug'),
    info: tell('debug'),
    warn: tell('warn'),
    error: tell('error'),
  };
}

/** A command that follows its operation asks for its progress many times a second: queries and looks are no part of a trace. */
function quietClient(): WorkflowClientInterceptor {
  const all = new OpenTelemetryWorkflowClientInterceptor();
  return {
    startWithDetails: (input, next) => all.startWithDetails(input, next),
    signal: (input, next) => all.signal(input, next),
    cancel: (input, next) => all.cancel(input, next),
  };
}

function listenerOf(tracer: Tracer): SpanListener {
  return {
    during: (name, attributes, act) =>
      tracer.startActiveSpan(name, { attributes }, async (span) => {
        try {
          return await act();
        } catch (error) {
          failed(span, messageOf(error));
          throw error;
        } finally {
          span.end();
        }
      }),
    past(spans, parent) {
      const around = parent === undefined ? context.active() : contextOf(parent);
      spans.forEach((told) => tell(tracer, told, around));
    },
    within: (parent, act) => context.with(contextOf(parent), act),
    current() {
      const active = trace.getSpanContext(context.active());
      return active === undefined
        ? undefined
        : `00-${active.traceId}-${active.spanId}-${active.traceFlags.toString(16).padStart(2, '0')}`;
    },
  };
}

function tell(tracer: Tracer, { name, startMs, endMs, fields, error }: PastSpan, around: Context): void {
  const options = { startTime: startMs, ...(fields === undefined ? {} : { attributes: { ...fields } }) };
  const span = tracer.startSpan(name, options, around);
  if (error !== undefined) {
    failed(span, error);
  }
  span.end(endMs);
}

function failed(span: Span, message: string): void {
  span.setStatus({ code: SpanStatusCode.ERROR, message });
}

/** @param traceparent has been checked */
function contextOf(traceparent: string): Context {
  const [, traceId = '', spanId = '', flags = ''] = traceparent.split('-');
  return trace.setSpanContext(ROOT_CONTEXT, {
    traceId,
    spanId,
    traceFlags: Number.parseInt(flags, 16),
    isRemote: true,
  });
}

/** Follows promises and callbacks, as Node's own storage does. */
class FollowingContext implements ContextManager {
  readonly #storage = new AsyncLocalStorage<Context>();

  active(): Context {
    return this.#storage.getStore() ?? ROOT_CONTEXT;
  }

  with<Args extends unknown[], F extends (...args: Args) => ReturnType<F>>(
    around: Context,
    act: F,
    self?: ThisParameterType<F>,
    ...args: Args
  ): ReturnType<F> {
    return this.#storage.run(around, () => act.apply(self, args));
  }

  bind<Target>(around: Context, target: Target): Target {
    if (typeof target !== 'function') {
      return target;
    }
    const bound = (...args: unknown[]): unknown => this.with(around, () => target.apply(undefined, args) as unknown);
    return bound as Target;
  }

  enable(): this {
    return this;
  }

  disable(): this {
    this.#storage.disable();
    return this;
  }
}
