/* proto/agent.proto, with the health and reflection services, on connections that somebody else has accepted. */
import { Server, ServerCredentials } from '@grpc/grpc-js';
import { ReflectionService } from '@grpc/reflection';
import { HealthImplementation } from 'grpc-health-check';
import type { AgentCheckpoints, AgentOperation } from '../core/contract/agent-operations.ts';
import type { CompleteRestoreResponse, PrepareRestoreResponse } from '../core/contract/restore.ts';
import type { AgentOperations } from './agent-operations.ts';
import { loadProto, serviceOf, streaming, unary } from './grpc-service.ts';

const SERVICE = 'kybernate.agent.v1.NodeAgentService';

export interface AgentGrpcCalls extends AgentOperations {
  /** @param trace traceparent of the caller */
  prepareRestore(call: unknown, trace?: string): Promise<PrepareRestoreResponse>;
  completeRestore(call: unknown, trace?: string): Promise<CompleteRestoreResponse>;
}

export function agentGrpc(calls: AgentGrpcCalls): Server {
  const loaded = loadProto('agent.proto');
  const server = new Server();
  server.addService(serviceOf(loaded, SERVICE), {
    Checkpoint: unary(async (request) => operationMessage(await calls.checkpoint(request))),
    Restore: unary(async (request) => operationMessage(await calls.restore(request))),
    PrepareRestore: unary((request, trace) => calls.prepareRestore(request, trace)),
    // Numbers that are 0 do not come over the wire.
    CompleteRestore: unary((request, trace) =>
      calls.completeRestore({ initHostPid: 0, restoreMs: 0, ...request }, trace),
    ),
    GetOperationStatus: unary(async (request) => operationMessage(await calls.status(request))),
    WatchOperation: streaming(async function* (request, signal) {
      for await (const state of calls.follow(request, signal)) {
        yield operationMessage(state);
      }
    }),
    ListCheckpoints: unary((request): Promise<AgentCheckpoints> => calls.checkpoints(request)),
  });
  new ReflectionService(loaded).addToServer(server);
  new HealthImplementation({ '': 'SERVING', [SERVICE]: 'SERVING' }).addToServer(server);
  return server;
}

/** Takes over a connection whose first bytes are those of HTTP/2. */
export type Injector = ReturnType<Server['createConnectionInjector']>;

export function injectorOf(server: Server): Injector {
  return server.createConnectionInjector(ServerCredentials.createInsecure());
}

function operationMessage({ result, ...operation }: AgentOperation): object {
  switch (operation.kind) {
    case 'checkpoint':
    case 'restore':
      return result === undefined ? operation : { ...operation, [operation.kind]: result };
    default:
      return operation;
  }
}
