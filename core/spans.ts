/*
 * The seam between our code and a tracer: who works says what it does, and a tracer, where there is one, listens. Without
 * one every function here is a check of one variable. The context of the caller (which span is the parent) is the
 * tracer's own matter; across processes it travels as `traceparent` of W3C Trace Context.
 */

export type SpanFields = Readonly<Record<string, string | number | boolean>>;

/** Something that is over, told afterwards. */
export interface PastSpan {
  readonly name: string;
  /** ms since 1970 */
  readonly startMs: number;
  readonly endMs: number;
  readonly fields?: SpanFields;
  /** why it failed; absent: it did not */
  readonly error?: string;
}

export interface SpanListener {
  /** Runs `act` inside of a span, which is the parent of all that `act` begins. */
  during<Result>(name: string, fields: SpanFields, act: () => Promise<Result>): Promise<Result>;
  /** @param parent traceparent; absent: the span that is active */
  past(spans: readonly PastSpan[], parent?: string): void;
  /** Runs `act` as if the span of another process were active. */
  within<Result>(parent: string, act: () => Promise<Result>): Promise<Result>;
  /** traceparent of the active span; undefined outside of every span */
  current(): string | undefined;
}

/** version, trace id, span id, flags */
export const TRACEPARENT = /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;

// One for the process, as the context that it follows is.
let listener: SpanListener | undefined;

export function listenToSpans(to: SpanListener | undefined): void {
  listener = to;
}

export function span<Result>(name: string, fields: SpanFields, act: () => Promise<Result>): Promise<Result> {
  return listener === undefined ? act() : listener.during(name, fields, act);
}

/** @param spans made only when somebody listens */
export function pastSpans(spans: () => readonly PastSpan[], parent?: string): void {
  listener?.past(spans(), parent);
}

/** @param parent what another process gave; anything but a traceparent is ignored */
export function withinSpan<Result>(parent: string | undefined, act: () => Promise<Result>): Promise<Result> {
  return listener === undefined || parent === undefined || !TRACEPARENT.test(parent)
    ? act()
    : listener.within(parent, act);
}

/** For another process or a record; undefined when nobody listens. */
export function traceparent(): string | undefined {
  return listener?.current();
}
