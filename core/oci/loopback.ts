/*
 * A network namespace that the restore makes has its loopback interface down: runc brings it up when it creates a container,
 * and tells CRIU to leave networks alone. A socket at 127.0.0.1 could not be bound again, and nobody inside could reach it.
 * So a hook of the runtime does it, which is run when the namespaces are there and before CRIU opens a socket.
 * Source: runc, libcontainer/criu_linux.go (`setup-namespaces`); seen with runc 1.5.2.
 */
import { namespaceKind, type OciHook, type OciSpec } from './spec.ts';

/** The state comes on standard input. A node without iproute2 and net-tools restores all the same. */
const SCRIPT =
  `pid=$(sed -n 's/.*"pid": *\\([0-9][0-9]*\\).*/\\1/p'); ` +
  'nsenter --net="/proc/$pid/ns/net" sh -c "ip link set lo up || ifconfig lo up" || true';

const HOOK: OciHook = { path: '/bin/sh', args: ['sh', '-c', SCRIPT] };

/** Idempotent: a container that was restored has the hook in its specification, and so has a checkpoint of it. */
export function withLoopback(spec: OciSpec): OciSpec {
  if (namespaceKind(spec, 'network') !== 'own') {
    return spec;
  }
  const others = (spec.hooks?.['createRuntime'] ?? []).filter(({ args }) => args?.at(-1) !== SCRIPT);
  return { ...spec, hooks: { ...spec.hooks, createRuntime: [...others, HOOK] } };
}
