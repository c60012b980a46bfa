/* A transfer of the sidecar, from its start to its end. Loaded by the command that needs it. */
import { hasEnded, transferStatus, type TransferStatus } from '../core/contract/transfer.ts';
import { isErrorType, KybernateError } from '../core/errors.ts';
import type { Cli } from './cli.ts';
import { createOutput, renderPairs, type Output } from './output.ts';
import { askSidecar, followSidecar } from './sidecar-client.ts';
import { formatBytes } from './units.ts';

export interface TransferFlags {
  readonly detach?: boolean;
  readonly json?: boolean;
}

const NOTE_MS = 5000;

/** Asks the sidecar about one transfer and prints its status. */
export async function tellTransfer(cli: Cli, flags: TransferFlags, method: string, path: string): Promise<void> {
  const status = statusOf(await askSidecar(cli.config(), method, path));
  createOutput(cli.streams, flags).result(status, () => render(status));
}

/** Prints the status at the end. @throws the error of a transfer that failed; that it was cancelled is no error */
export async function startTransfer(cli: Cli, flags: TransferFlags, kind: string, call: object): Promise<void> {
  const output = createOutput(cli.streams, flags);
  const config = cli.config();
  let status = statusOf(await askSidecar(config, 'POST', `/v1/${kind}`, call));
  if (flags.detach === true) {
    output.result(status, () => status.transferId);
    return;
  }
  let notedMs = Date.now();
  for await (const state of followSidecar(config, `/v1/transfers/${status.transferId}/progress`)) {
    status = statusOf(state);
    if (Date.now() - notedMs >= NOTE_MS) {
      notedMs = Date.now();
      noteProgress(output, status);
    }
  }
  if (!hasEnded(status)) {
    throw new KybernateError(
      'StorageUnavailable',
      `the sidecar went away; the transfer goes on with the next one: kybernate transfer status ${status.transferId}`,
    );
  }
  if (status.error !== undefined) {
    const { type, message } = status.error;
    throw new KybernateError(isErrorType(type) ? type : 'Internal', message, { details: { ...status } });
  }
  output.result(status, () => render(status));
}

function noteProgress(output: Output, { kind, bytes, totalBytes }: TransferStatus): void {
  const of = totalBytes === undefined ? '' : ` of ${formatBytes(totalBytes)}`;
  output.note(`${kind}: ${formatBytes(bytes)}${of}`);
}

function statusOf(answer: unknown): TransferStatus {
  return transferStatus.parse(answer);
}

function render(status: TransferStatus): string {
  const { transferId, kind, checkpointId, bytes, totalBytes, hash, error, location } = status;
  return renderPairs([
    ['transfer', transferId],
    [kind, checkpointId],
    ['status', status.status],
    ['bytes', totalBytes === undefined ? formatBytes(bytes) : `${formatBytes(bytes)} of ${formatBytes(totalBytes)}`],
    ['Merkle root', hash],
    ['location', location],
    ['error', error === undefined ? undefined : `${error.type}: ${error.message}`],
  ]);
}
