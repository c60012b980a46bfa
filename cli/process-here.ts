/* A restore of processes by the CLI itself: on this machine, without Temporal, on its own terminal when that is wanted. */
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { constants } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { isatty } from 'node:tty';
import { METADATA_FILE, OWN_FILES } from '../core/checkpoint/file-names.ts';
import { parseManifest } from '../core/checkpoint/manifest.ts';
import type { RestoredProcess, RestoreProcessRequest } from '../core/contract/process.ts';
import { KybernateError } from '../core/errors.ts';
import type { Op } from '../core/op.ts';
import type { ProgramDeps } from '../engine/facts.ts';
import { removeOperationCgroup } from '../engine/operation-cgroup.ts';
import { claimOperation, thisCommand } from '../engine/operation-owner.ts';
import { forgetRestore, takeLease } from '../engine/restore-operation.ts';
import { restoreProcess } from '../engine/restore-process.ts';
import { removeRestoredProcess } from '../engine/restored-process.ts';
import { childEnd, type ChildEnd } from '../native/libc/wait.ts';
import { runExeca } from '../native/run/run-execa.ts';
import { checkDirectorySignature, openTrust } from '../store/crypto/signing.ts';
import { verifyLocal } from '../store/verify.ts';
import { openLocalCatalog } from './all-checkpoints.ts';
import type { Cli } from './cli.ts';
import { runLocally } from './local-work.ts';
import { createOutput } from './output.ts';
import { requireProgram } from './setup/programs.ts';
import { hookSettings } from '../workers/config.ts';

/** What a shell adds to the number of the signal that has ended a program. */
const SIGNAL_EXIT = 128;
const DEFAULT_BUDGET_MS = 300_000;

export interface RestoreHereOptions {
  readonly render: (result: RestoredProcess & { readonly node: string }) => string;
  readonly attach?: boolean;
  readonly json?: boolean;
}

/** @throws CheckpointNotFound, CheckpointCorrupt, SignatureInvalid, Incompatible, RestoreFailed */
export async function restoreHere(cli: Cli, request: RestoreProcessRequest, flags: RestoreHereOptions): Promise<void> {
  const output = createOutput(cli.streams, flags);
  const deps = programDeps(cli);
  const dir = await directoryOf(cli, request);
  const operationId = randomBytes(16).toString('hex');
  const terminal = flags.attach === true && isatty(0);
  const work = { output, title: `restore of ${dir}`, phase: 'verifying', name: dir } as const;
  let restored: RestoredProcess;
  claim(deps, operationId, request);
  try {
    restored = await runLocally(cli, work, async (op) => {
      await verify(cli, dir, op);
      return restoreProcess(deps, op, {
        operationId,
        checkpointDir: dir,
        tcp: request.tcp ?? 'close',
        stdio: request.stdio ?? {},
        ...(request.directory === undefined ? {} : { directory: request.directory }),
        restoreBudgetMs: request.restoreBudgetMs ?? DEFAULT_BUDGET_MS,
        ...(flags.attach === true ? { attach: { terminal } } : {}),
      });
    });
  } catch (error) {
    await removeRestoredProcess(deps, operationId);
    throw error;
  } finally {
    forgetRestore(deps.settings, operationId);
    removeOperationCgroup(operationId);
  }
  const result = { ...restored, node: deps.settings.node };
  if (flags.attach !== true) {
    output.result(result, () => flags.render(result));
    return;
  }
  output.note(`process ${restored.pid} runs${restored.warnings.map((text) => `\nnote: ${text}`).join('')}`);
  const end = await attached(restored.pid, terminal);
  const exitCode = end.exitCode ?? SIGNAL_EXIT + (end.signal ?? 0);
  if (output.json) {
    output.result({ ...result, ...end }, () => '');
  }
  cli.setExitCode(exitCode);
}

/** A node worker of this machine leaves it alone then, and nobody removes the checkpoint meanwhile. */
function claim({ settings }: ProgramDeps, operationId: string, { checkpointId }: RestoreProcessRequest): void {
  claimOperation(settings, operationId, {
    command: thisCommand(),
    ...(checkpointId === undefined ? {} : { checkpointId }),
  });
  if (checkpointId !== undefined) {
    takeLease(settings, checkpointId, operationId);
  }
}

const FORWARDED = ['SIGTERM', 'SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const;
/** A terminal sends these to the processes by itself. */
const FROM_TERMINAL: readonly string[] = ['SIGINT', 'SIGQUIT'];

async function attached(pid: number, terminal: boolean): Promise<ChildEnd> {
  const listeners = FORWARDED.map((name) => {
    const hand = (): void => {
      if (terminal && FROM_TERMINAL.includes(name)) {
        return;
      }
      try {
        process.kill(pid, constants.signals[name]);
      } catch {
        // ESRCH: it has just ended.
      }
    };
    process.on(name, hand);
    return { name, hand };
  });
  try {
    return await childEnd(pid);
  } finally {
    listeners.forEach(({ name, hand }) => process.off(name, hand));
  }
}

/** The programs of this machine, as set-up made them or the variables name them. */
function programDeps(cli: Cli): ProgramDeps {
  const { node, stateDir, runDir } = cli.config();
  const criuPath = cli.env['KYBERNATE_CRIU'] || requireProgram('criu', cli.env);
  const settings = {
    node,
    stateDir,
    runDir,
    criuPath,
    programPath: [dirname(criuPath), cli.env['PATH'] ?? ''].join(delimiter),
    containerdAddress: '',
    runcPath: '',
    cudaLibrary: '',
    nvmlLibrary: '',
    runnerCommand: [],
    restoreRoots: [],
    restoreFromEnvironment: false,
    restoreRuntime: '',
    // Those of the node: its owner has them run, and refuse, whoever restores.
    hooks: hookSettings(cli.env),
  };
  return { settings, run: runExeca };
}

/** @throws CheckpointNotFound it is not on this machine */
async function directoryOf(cli: Cli, { path, checkpointId }: RestoreProcessRequest): Promise<string> {
  if (path !== undefined) {
    return path;
  }
  const { path: dir } = await (await openLocalCatalog(cli.config())).get(String(checkpointId));
  return dir;
}

/** Who has signed it, then every byte. */
async function verify(cli: Cli, dir: string, op: Op): Promise<void> {
  const file = join(dir, OWN_FILES.manifest);
  const text = await readFile(file, 'utf8').catch((error: unknown) => {
    throw new KybernateError('CheckpointNotFound', `${dir} is no checkpoint: it has no ${OWN_FILES.manifest}`, {
      cause: error,
      details: { remedy: `name the directory that holds ${METADATA_FILE}` },
    });
  });
  const { signatures, trustedKeys } = cli.config();
  await checkDirectorySignature(dir, await openTrust({ mode: signatures, trustedKeys }), op);
  await verifyLocal(dir, parseManifest(text, file), op);
}
