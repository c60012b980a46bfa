/*
 * Traces, off unless OTEL_EXPORTER_OTLP_ENDPOINT (or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) is set: then opentelemetry.ts is
 * loaded, and nothing of OpenTelemetry otherwise.
 */
import type { Environment } from './config.ts';
import type { Tracing, TracingParts } from './opentelemetry.ts';

export type { Tracing };

const OFF: Tracing = { on: false, activity: [], client: [], sinks: {}, close: () => Promise.resolve() };

/** Once a process, before what is to be traced. */
export async function startTracing(parts: TracingParts): Promise<Tracing> {
  const url = tracesUrl(parts.env);
  if (url === undefined) {
    return OFF;
  }
  const protocol = parts.env['OTEL_EXPORTER_OTLP_TRACES_PROTOCOL'] ?? parts.env['OTEL_EXPORTER_OTLP_PROTOCOL'];
  if (protocol !== undefined && protocol !== '' && protocol !== 'http/protobuf') {
    parts.log?.warn({ protocol }, 'traces are sent as http/protobuf whatever OTEL_EXPORTER_OTLP_PROTOCOL says');
  }
  const { startOpenTelemetry } = await import('./opentelemetry.ts');
  return startOpenTelemetry({ ...parts, url });
}

/**
 * As the specification of the OTLP exporter has it: one variable is the whole URL, the other its beginning.
 * @returns undefined: no traces
 */
export function tracesUrl(env: Environment): string | undefined {
  const set = (name: string): string | undefined => (env[name] === '' ? undefined : env[name]?.trim());
  if (set('OTEL_SDK_DISABLED')?.toLowerCase() === 'true' || set('OTEL_TRACES_EXPORTER') === 'none') {
    return undefined;
  }
  const common = set('OTEL_EXPORTER_OTLP_ENDPOINT');
  return (
    set('OTEL_EXPORTER_OTLP_TRACES_ENDPOINT') ??
    (common === undefined ? undefined : `${common.replace(/\/$/, '')}/v1/traces`)
  );
}

/** What a program around this one gave, so that a command joins its trace. */
export function traceparentOf(env: Environment): string | undefined {
  return env['TRACEPARENT'];
}
