/*
 * The capture of a tree of processes: one call of CRIU by its RPC. CRIU itself makes the tree stand still, from its event
 * `pre-dump` on, and keeps it so as long as its event `post-dump` is not answered: its images are written then, its network
 * lock holds. So the runner holds the workload by holding CRIU, lets it run on by the answer, and one that dies lets it go
 * too: CRIU loses its peer, fails and leaves the processes as it found them.
 * In place of the rw layer of a container the length of each open file is noted: the files are the host's.
 */
import { statSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { CRIU_DIR, LOGS_DIR } from '../core/checkpoint/file-names.ts';
import type { ProcessTree } from '../core/checkpoint/metadata.ts';
import { KybernateError, messageOf } from '../core/errors.ts';
import { criuRpcOptions } from '../core/oci/criu-options.ts';
import { rearmExpiredTimers } from '../native/criu/timers.ts';
import { criuDump, CriuError, type CriuEvent } from '../native/criu/rpc/rpc.ts';
import { socketsInRepair } from '../native/net/tcp-repair.ts';
import type { Run, RunResult } from '../native/run/run.ts';
import { deleteTable } from '../native/net/nft.ts';
import { openFds } from '../native/proc/fds.ts';
import type { Capture, CaptureContext, CaptureOutcome } from './capture.ts';
import { captureHooks, saveCaptureLogs, type CaptureHooks } from './capture-hooks.ts';
import { endDump } from './end-dump.ts';
import { directoryBytes } from './estimate.ts';
import { freezeNow, thaw } from './freezer.ts';
import { failedLogsDir } from './failed-logs.ts';
import { liveProcesses } from './live-processes.ts';
import { holdNetwork } from './network-hold.ts';
import { dumpLogPlaces, networkHoldTable, networkLockTables } from './network-locks.ts';
import { checkToken } from './operation.ts';
import { treeOf } from './analysis-tree.ts';

export function createProcessCapture(context: CaptureContext): Capture {
  return new ProcessCapture(context);
}

/** Files that are told to the restore; a tree that has more open is restored without this look at the others. */
const MAX_FILES = 4096;

class ProcessCapture implements Capture {
  readonly method = 'criu-rpc';
  readonly #context: CaptureContext;
  readonly #imageDir: string;
  readonly #workDir: string;
  readonly #hooks: CaptureHooks;
  readonly #answer = Promise.withResolvers<void>();
  /** of CRIU: settled when the tree is free of it */
  #dump: Promise<void> | undefined;
  #criuPid: number | undefined;
  #files: ProcessTree['files'] = [];
  #networkHold: CaptureOutcome['networkHold'];
  #isComplete = false;
  #isAbandoned = false;

  constructor(context: CaptureContext) {
    this.#context = context;
    this.#imageDir = join(context.plan.checkpointDir, CRIU_DIR);
    this.#workDir = join(context.paths.dir, 'criu-work');
    const { signal } = context;
    const dirs = { imageDir: this.#imageDir, workDir: this.#workDir };
    this.#hooks = captureHooks(context, { kind: 'process', ...dirs, signal });
    // One that is refused before CRIU asks is told by its own error.
    this.#answer.promise.catch(() => undefined);
  }

  async plan(): Promise<void> {
    const { plan } = this.#context;
    for (const dir of [this.#imageDir, join(plan.checkpointDir, LOGS_DIR), this.#workDir]) {
      await mkdir(dir, { recursive: true, mode: 0o700 });
    }
  }

  /** On return CRIU holds the tree, and its images are whole. */
  async freeze(): Promise<void> {
    const { plan, run, signal, timer } = this.#context;
    const complete = Promise.withResolvers<void>();
    let ending: Promise<unknown> | undefined;
    const abort = (): void => {
      const reason = signal.reason as Error;
      this.#answer.reject(reason);
      // CRIU hears of it at its next event; in the midst of its work it has to be ended.
      if (!this.#isComplete) {
        ending = endDump(plan, run).catch(() => undefined);
      }
    };
    signal.addEventListener('abort', abort, { once: true });
    timer.part('runtime-start');
    const watched: Run = async (...call) => {
      const result = await run(...call);
      // Its pid may be another's from now on.
      this.#criuPid = undefined;
      this.#criuEnded(result);
      return result;
    };
    this.#dump = criuDump(
      { run: watched, criuPath: plan.settings.criuPath },
      {
        ...criuRpcOptions(
          plan.analysis.options.map(({ option }) => option),
          'dump',
        ),
        imagesDir: this.#imageDir,
        pid: plan.facts.initHostPid,
        leaveRunning: true,
        logLevel: 4,
      },
      {
        workDir: this.#workDir,
        fds: [this.#context.lockFd],
        signal,
        onSpawn: (pid) => (this.#criuPid = pid),
        onEvent: async (event) => {
          await this.#onEvent(event, () => complete.resolve());
          return undefined;
        },
      },
    );
    try {
      await Promise.race([complete.promise, this.#dump.then(() => this.#refuseSilent())]);
      signal.throwIfAborted();
      if (plan.after !== 'resume') {
        this.#stopBehindCriu();
      }
    } catch (error) {
      this.#answer.reject(error instanceof Error ? error : new Error(messageOf(error)));
      await this.#dump.catch(() => undefined);
      signal.throwIfAborted();
      throw this.#dumpFailed(error);
    } finally {
      signal.removeEventListener('abort', abort);
      await ending;
    }
  }

  /**
   * Somebody else has killed it: its processes run, and what they send through sockets that it had in hand fails. They are
   * stopped within the same turn, and whoever holds them is told.
   */
  #criuEnded({ signal }: RunResult): void {
    const { onLost } = this.#context;
    if (signal === undefined || this.#isAbandoned) {
      return;
    }
    this.#stopBehindCriu();
    if (this.#isComplete) {
      const reason = new KybernateError('DumpFailed', `CRIU, which held the processes, was ended by ${signal}`);
      this.#answer.reject(reason);
      onLost(reason);
    }
  }

  /**
   * A signal that waits behind the ptrace: should CRIU be killed, the processes stop before they run an instruction, in which
   * they could not use the sockets that it had in hand. Without such sockets there is nothing to fear.
   */
  #stopBehindCriu(): void {
    const { facts } = this.#context.plan;
    if (liveProcesses(facts).some(({ hostPid }) => socketsInRepair(hostPid).length > 0)) {
      freezeNow(facts.freezer);
    }
  }

  /** CRIU lets the tree go by itself: sockets, network lock, ptrace. */
  async release(): Promise<void> {
    this.#context.timer.part('thaw');
    this.#answer.resolve();
    await this.#dump?.catch((error: unknown) => {
      throw this.#dumpFailed(error);
    });
    await thaw(this.#context.plan.facts.freezer);
    this.#context.timer.thawed();
  }

  /**
   * The tree was ended while CRIU held it. CRIU must not let its sockets go: they would take leave of their peers, whom a
   * restore is to find as they were.
   */
  async abandon(): Promise<void> {
    const { plan, paths, run } = this.#context;
    this.#isAbandoned = true;
    if (this.#criuPid !== undefined) {
      try {
        process.kill(this.#criuPid, 'SIGKILL');
      } catch {
        // ESRCH: it has ended with its last process.
      }
    }
    this.#answer.reject(new KybernateError('DumpFailed', 'the processes were ended'));
    await this.#dump?.catch(() => undefined);
    if (plan.facts.networkNamespace.private) {
      return;
    }
    const holdTable = networkHoldTable(plan.operationId);
    const namespace = process.pid;
    const dumpLogs = dumpLogPlaces(paths.dir, plan.checkpointDir);
    for (const table of await networkLockTables({ namespace, privateNetwork: false, dumpLogs, holdTable }, run)) {
      if (table.name !== holdTable) {
        await deleteTable(run, namespace, table);
      }
    }
  }

  async finish(): Promise<CaptureOutcome> {
    const { plan, log } = this.#context;
    await this.saveLogs(join(plan.checkpointDir, LOGS_DIR));
    const timers = await rearmExpiredTimers(this.#imageDir);
    if (timers > 0) {
      log.info({ timers }, 'expired periodic timers are set to fire at the restore');
    }
    return {
      imageBytes: await directoryBytes(this.#imageDir),
      rootfsBytes: 0,
      deletedFiles: 0,
      rootfsMethod: 'none',
      warnings: this.#hooks.warnings,
      process: { ...treeOf(plan.facts), files: this.#files },
      ...(this.#networkHold === undefined ? {} : { networkHold: this.#networkHold }),
    };
  }

  saveLogs(logs: string): Promise<void> {
    return saveCaptureLogs(this.#context, this.#workDir, logs);
  }

  /** @throws when the dump must not go on; CRIU undoes its part */
  async #onEvent(event: CriuEvent, onComplete: () => void): Promise<void> {
    const { plan, timer, onFreezing, onFrozen } = this.#context;
    const { name } = event;
    if (name !== 'post-dump') {
      await this.#hooks.run(event);
    }
    if (name === 'pre-dump') {
      // The last moment before the workload is touched: CRIU took its time to start.
      checkToken(plan.settings, plan.container, plan.token);
      onFreezing();
      timer.frozen();
      timer.part('dump');
    } else if (name === 'post-dump') {
      onFrozen();
      timer.part('post-dump');
      this.#files = this.#openFiles();
      this.#networkHold = await holdNetwork(plan, this.#context.run);
      await this.#hooks.run(event);
      this.#isComplete = true;
      onComplete();
      await this.#answer.promise;
    }
  }

  /** While nothing writes to them. */
  #openFiles(): ProcessTree['files'] {
    const files = new Map<string, number>();
    for (const { hostPid } of liveProcesses(this.#context.plan.facts)) {
      for (const { fd, kind, target } of openFds(hostPid)) {
        const stats = kind === 'file' ? statSync(`/proc/${hostPid}/fd/${fd}`, { throwIfNoEntry: false }) : undefined;
        if (stats?.isFile() === true && files.size < MAX_FILES) {
          files.set(target, stats.size);
        }
      }
    }
    return [...files].map(([path, bytes]) => ({ path, bytes }));
  }

  #refuseSilent(): void {
    if (!this.#isComplete) {
      throw new KybernateError('DumpFailed', 'CRIU ended its dump without the event post-dump: is it older than 4.2?');
    }
  }

  #dumpFailed(error: unknown): unknown {
    const { plan } = this.#context;
    if (!(error instanceof CriuError)) {
      return error;
    }
    if (/No space left on device/i.test(error.message)) {
      return new KybernateError(
        'DiskFull',
        `the dump of process ${plan.facts.initHostPid} found no space below ${plan.checkpointDir}`,
      );
    }
    return new KybernateError(
      'DumpFailed',
      `CRIU could not dump process ${plan.facts.initHostPid}: ${error.message}; the process runs on`,
      { cause: error, details: { errno: error.errno, logs: failedLogsDir(plan.settings, plan.checkpointId) } },
    );
  }
}
