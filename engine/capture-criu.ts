/*
 * The plain capture: one CRIU dump, whole, by `runc checkpoint` beside containerd or by containerd's Tasks.Checkpoint.
 *
 * With the engine `runc` CRIU tells us (criu-events.ts) of `pre-dump`, before it touches a task, and of `post-dump`, when
 * its images are written and its link-remap files still exist, and waits for our word. So the freeze begins only when runc
 * and CRIU have started, and the diff of the rw layer runs beside the dump.
 * With the engine `containerd` the freeze begins before the call, and there is no post-dump moment.
 * Hooks run there too: those of `pre-dump` before the freeze, the others at CRIU's own moments.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CRIU_DIR, FS_DIR, LOGS_DIR } from '../core/checkpoint/file-names.ts';
import { KybernateError } from '../core/errors.ts';
import { CRIU_OPTIONS, NO_PLUGINS } from '../core/oci/criu-options.ts';
import { parseSpec } from '../core/oci/spec.ts';
import { criuConfigText } from '../native/criu/config-file.ts';
import { dumpErrorLines } from '../native/criu/log.ts';
import { rearmExpiredTimers } from '../native/criu/timers.ts';
import type { Capture, CaptureContext, CaptureOutcome } from './capture.ts';
import { captureHooks, saveCaptureLogs, type CaptureHooks } from './capture-hooks.ts';
import { installActionScript, listenToCriu, makeEventPipes, type ScriptEvent } from './criu-events.ts';
import { endDump } from './end-dump.ts';
import { directoryBytes } from './estimate.ts';
import { freeze, thaw } from './freezer.ts';
import { hasGpu } from './gpu-section.ts';
import { holdNetwork } from './network-hold.ts';
import { checkToken } from './operation.ts';
import { captureLinkRemap, captureRootfs, type RootfsCapture } from './rootfs.ts';
import { checkpointFailed, runCheckpoint } from './runc-checkpoint.ts';
import { setAside, takeBack } from './set-aside.ts';
import { sharedIds } from './shared-pids.ts';
import { captureVolumes } from './volume-capture.ts';

/** A task in an uninterruptible sleep delays the freeze; the freeze budget bounds it too. */
const FREEZE_TIMEOUT_MS = 10_000;
const OWN_EVENTS = ['pre-dump', 'post-dump'] as const;

export function createCriuCapture(context: CaptureContext): Capture {
  return new CriuCapture(context);
}

class CriuCapture implements Capture {
  readonly method = 'criu';
  readonly #context: CaptureContext;
  readonly #imageDir: string;
  readonly #workDir: string;
  readonly #stopDiff = new AbortController();
  readonly #hooks: CaptureHooks;
  #rootfs: Promise<RootfsCapture> | undefined;
  #networkHold: CaptureOutcome['networkHold'];

  constructor(context: CaptureContext) {
    this.#context = context;
    this.#imageDir = join(context.plan.checkpointDir, CRIU_DIR);
    this.#workDir = join(context.paths.dir, 'criu-work');
    const signal = AbortSignal.any([context.signal, this.#stopDiff.signal]);
    const dirs = { imageDir: this.#imageDir, workDir: this.#workDir };
    this.#hooks = captureHooks(context, { kind: 'container', ...dirs, signal });
  }

  async plan(): Promise<void> {
    const { plan } = this.#context;
    for (const dir of [this.#imageDir, join(plan.checkpointDir, FS_DIR), join(plan.checkpointDir, LOGS_DIR)]) {
      await mkdir(dir, { recursive: true, mode: 0o700 });
    }
    await mkdir(this.#workDir, { recursive: true, mode: 0o700 });
    if (plan.engine === 'runc') {
      await this.#planScript();
    }
  }

  async freeze(): Promise<void> {
    const { plan, timer } = this.#context;
    try {
      if (plan.engine === 'runc') {
        await this.#dumpByRunc();
      } else {
        await this.#dumpByContainerd();
      }
      timer.part('rootfs');
      await this.#rootfs;
    } catch (error) {
      // The undo comes after this, and the workload stands still until then.
      this.#stopDiff.abort(error);
      throw error;
    } finally {
      // Never leave the diff running behind a failed dump: its files are about to be removed.
      await this.#rootfs?.catch(() => undefined);
    }
  }

  async release(): Promise<void> {
    this.#context.timer.part('thaw');
    await thaw(this.#context.plan.facts.freezer);
    this.#context.timer.thawed();
  }

  async finish(): Promise<CaptureOutcome> {
    const rootfs = await this.#rootfs;
    await this.saveLogs(join(this.#context.plan.checkpointDir, LOGS_DIR));
    const timers = await rearmExpiredTimers(this.#imageDir);
    const spec = parseSpec(this.#context.plan.facts.record.spec, 'specification of the container');
    const ids = await sharedIds(spec, join(this.#imageDir, 'pstree.img'));
    if (timers > 0) {
      this.#context.log.info({ timers }, 'expired periodic timers are set to fire at the restore');
    }
    return {
      imageBytes: await directoryBytes(this.#imageDir),
      rootfsBytes: rootfs?.bytes ?? 0,
      deletedFiles: rootfs?.deletedFiles ?? 0,
      rootfsMethod: rootfs?.method ?? 'none',
      warnings: [...this.#hooks.warnings, ...(rootfs?.warnings ?? [])],
      ...(this.#networkHold === undefined ? {} : { networkHold: this.#networkHold }),
      ...(ids === undefined ? {} : { ids }),
    };
  }

  get #config(): string {
    return join(this.#context.paths.dir, 'criu.conf');
  }

  async #planScript(): Promise<void> {
    const { plan, run, paths } = this.#context;
    await makeEventPipes(run, paths.dir);
    const script = await installActionScript(plan.settings.stateDir);
    const own = [
      { option: 'action-script', value: script },
      ...(hasGpu(plan) ? [{ option: CRIU_OPTIONS.pluginDir.criu, value: NO_PLUGINS }] : []),
    ];
    const lines = [...plan.analysis.criuConfig, criuConfigText(own)];
    await writeFile(this.#config, lines.join('\n'), { mode: 0o600 });
  }

  async #dumpByRunc(): Promise<void> {
    const { plan, run, timer, signal, paths, log } = this.#context;
    const criu = await listenToCriu({
      dir: paths.dir,
      events: [...new Set([...OWN_EVENTS, ...this.#hooks.events])],
      onEvent: (event) => this.#onEvent(event),
    });
    timer.part('runtime-start');
    let ending: Promise<unknown> | undefined;
    let endFailure: Error | undefined;
    const abort = (): void => {
      ending = endDump(plan, run).catch((error: unknown) => (endFailure ??= asError(error)));
    };
    signal.addEventListener('abort', abort, { once: true });
    try {
      const dirs = { imageDir: this.#imageDir, workDir: this.#workDir };
      const env = { CRIU_CONFIG_FILE: this.#config, ...criu.env };
      const result = await runCheckpoint(this.#context, dirs, env);
      const failure = criu.failure() ?? endFailure;
      if (failure !== undefined) {
        throw failure;
      }
      signal.throwIfAborted();
      if (result.exitCode !== 0) {
        throw await checkpointFailed(plan, this.#workDir, result);
      }
      if (this.#rootfs === undefined) {
        throw new KybernateError(
          'DumpFailed',
          `CRIU did not call the action script: is ${plan.settings.criuPath} older than 4.2, or CRIU_CONFIG_FILE dropped?`,
        );
      }
    } finally {
      signal.removeEventListener('abort', abort);
      await ending;
      await takeBack(plan, log);
      await criu.close();
    }
  }

  /** @throws when the dump must not go on; CRIU is told to stop and undoes its part */
  async #onEvent(event: ScriptEvent): Promise<void> {
    const { timer, signal } = this.#context;
    signal.throwIfAborted();
    switch (event.name) {
      case 'pre-dump':
        await this.#hooks.run(event);
        await this.#freezeWorkload();
        // A CRIU that ended meanwhile has failed the dump already.
        this.#stopDiff.signal.throwIfAborted();
        timer.part('dump');
        this.#startRootfs();
        break;
      case 'post-dump':
        timer.part('post-dump');
        await this.#afterDump();
        await this.#hooks.run(event);
        timer.part('runtime-exit');
        break;
      default:
        await this.#hooks.run(event);
    }
  }

  async #freezeWorkload(): Promise<void> {
    const { plan, timer, log, onFreezing, onFrozen } = this.#context;
    // The last moment before the workload is touched: runc and CRIU took their time to start.
    checkToken(plan.settings, plan.container, plan.token);
    onFreezing();
    timer.part('freeze');
    timer.frozen();
    await freeze(plan.facts.freezer, FREEZE_TIMEOUT_MS);
    setAside(plan, log);
    onFrozen();
  }

  #startRootfs(): void {
    const { plan, run, log } = this.#context;
    if (plan.imagesOnly === true) {
      this.#rootfs = Promise.resolve({ method: 'none', bytes: 0, deletedFiles: 0, warnings: [] });
      return;
    }
    const signal = AbortSignal.any([this.#context.signal, this.#stopDiff.signal]);
    const op = { signal, log, progress: () => undefined };
    this.#rootfs = captureRootfs(
      { run, containerd: this.#context.containerd },
      plan.facts,
      plan.checkpointDir,
      op,
    ).then(async (rootfs) => ({
      ...rootfs,
      warnings: [...rootfs.warnings, ...(await captureVolumes(run, plan, op))],
    }));
    // Awaited in freeze(); this keeps an early failure from being reported as unhandled.
    this.#rootfs.catch(() => undefined);
  }

  /** CRIU's images are written; its link-remap files still exist and its network lock still holds. */
  async #afterDump(): Promise<void> {
    const { plan, run } = this.#context;
    if (plan.facts.upperDir !== undefined && plan.analysis.linkRemap && plan.imagesOnly !== true) {
      await this.#rootfs;
      await captureLinkRemap({ run }, plan.facts.upperDir, plan.checkpointDir);
    }
    this.#networkHold = await holdNetwork(plan, run);
  }

  async #dumpByContainerd(): Promise<void> {
    const { plan, timer, signal, log } = this.#context;
    const containerd = this.#context.containerd();
    await this.#hooks.run({ name: 'pre-dump' });
    await this.#freezeWorkload();
    timer.part('dump');
    this.#startRootfs();
    const flags = plan.analysis.runcFlags;
    try {
      await containerd.checkpointTask(
        plan.container.namespace,
        plan.container.id,
        {
          imagePath: this.#imageDir,
          workPath: this.#workDir,
          exit: false,
          openTcp: flags.includes('--tcp-established'),
          externalUnixSockets: flags.includes('--ext-unix-sk'),
          terminal: flags.includes('--shell-job'),
          fileLocks: flags.includes('--file-locks'),
        },
        signal,
      );
    } catch (error) {
      signal.throwIfAborted();
      const lines = await dumpErrorLines(join(this.#workDir, 'dump.log'));
      throw new KybernateError('DumpFailed', `containerd could not checkpoint the task: ${lines.join(' | ')}`, {
        cause: error,
        details: { criu: lines },
      });
    } finally {
      await takeBack(plan, log);
    }
    await this.#hooks.run({ name: 'post-dump' });
  }

  saveLogs(logs: string): Promise<void> {
    return saveCaptureLogs(this.#context, this.#workDir, logs);
  }
}

function asError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown));
}
