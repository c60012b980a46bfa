/*
 * An archive of the kubelet's checkpoint API becomes a checkpoint of this node, by the rules of `kybernate import`. Who asks
 * by a Kubernetes object may ask for archives of pods of its own namespace alone, which the archive itself tells: names of
 * such files are ambiguous.
 */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import type { Metadata } from '../../core/checkpoint/metadata.ts';
import type { ImportStepInput, ImportStepResult } from '../../core/contract/import-checkpoint.ts';
import { KybernateError, isKybernateError } from '../../core/errors.ts';
import type { Op } from '../../core/op.ts';
import { confinedPath } from '../../engine/confined-path.ts';
import { shareTree } from '../../engine/sharing.ts';
import { acceptSigned, acceptUnsigned } from '../../store/archives/acceptance.ts';
import { importArchive as importStream, type AnyImported } from '../../store/archives/any-archive.ts';
import { DEFAULT_LIMITS } from '../../store/archives/limits.ts';
import { sourceKind } from '../../store/archives/source-kind.ts';
import { parseMetadata } from '../../store/metadata.ts';
import type { NodeActivityDeps } from './deps.ts';

const READ_BYTES = 2 ** 20;
/** containerd namespace of the pods of a kubelet. */
const POD_NAMESPACE = 'k8s.io';

type Step = ImportStepInput & { readonly file: string };

/**
 * Idempotent: what an earlier attempt has made is found.
 * @throws RestoreRefused it lies elsewhere, or is another namespace's; CheckpointCorrupt, SignatureInvalid, DiskFull;
 *   InvalidInput another checkpoint has its id. After every error nothing of it is left.
 */
export async function importArchive(deps: NodeActivityDeps, op: Op, input: ImportStepInput): Promise<ImportStepResult> {
  const { catalog, kubeletCheckpoints, node } = deps;
  const file = confinedPath({
    roots: kubeletCheckpoints === undefined ? [] : [kubeletCheckpoints],
    path: input.archive,
    what: 'import of',
    rootsName: "the kubelet's checkpoints",
    // A node worker is root.
    trustedUid: process.geteuid?.() ?? 0,
  });
  const imported = await importFile(deps, op, { ...input, file });
  const { sidecarGroupId } = node.settings;
  if (sidecarGroupId !== undefined) {
    await shareTree(imported.path, sidecarGroupId);
  }
  const { checkpointId, path: localPath, totalBytes, created, warnings } = imported;
  const { pod } = (await catalog.get(checkpointId)).metadata.container;
  return {
    checkpointId,
    localPath,
    totalBytes,
    created,
    ...(pod === undefined ? {} : { pod: { namespace: pod.namespace, name: pod.name, container: pod.container } }),
    warnings,
  };
}

async function importFile(
  { node, trust = { mode: 'accept', keys: new Map() } }: NodeActivityDeps,
  op: Op,
  { file, archive, checkpointId, podNamespace, labels }: Step,
): Promise<AnyImported> {
  const signed = acceptSigned(trust, op);
  // Nobody but root can have changed what the path leads to since it was looked at.
  const handle = await open(file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    if (!(await handle.stat()).isFile()) {
      throw new KybernateError('RestoreRefused', `import of ${archive} is refused: it is no file`);
    }
    return await importStream({
      stream: handle.createReadStream({ highWaterMark: READ_BYTES, autoClose: false }) as AsyncIterable<Uint8Array>,
      checkpointsDir: join(node.settings.stateDir, 'checkpoints'),
      minFreeBytes: node.settings.minFreeBytes ?? 0,
      op,
      accept: (head) => {
        signed(head);
        refuseOthers(parseMetadata(head.metadataText, archive), archive, podNamespace);
        if (checkpointId !== undefined && head.checkpointId !== checkpointId) {
          const message = `checkpointId: ${archive} is of checkpoint ${head.checkpointId} and keeps its id`;
          throw new KybernateError('InvalidInput', message);
        }
      },
      acceptForeign: acceptUnsigned(trust.mode),
      foreign: {
        limits: DEFAULT_LIMITS,
        namespace: POD_NAMESPACE,
        missingMounts: 'keep',
        sourceKind,
        labels,
        ...(checkpointId === undefined ? {} : { checkpointId }),
        acceptMetadata: (metadata) => refuseOthers(metadata, archive, podNamespace),
      },
    });
  } catch (error) {
    throw ofArchive(error, archive);
  } finally {
    await handle.close();
  }
}

function refuseOthers({ container }: Metadata, archive: string, podNamespace: string | undefined): void {
  const owner = container.pod?.namespace;
  if (podNamespace !== undefined && owner !== podNamespace) {
    const whose = owner === undefined ? 'no pod' : `a pod of namespace ${owner}`;
    throw new KybernateError(
      'RestoreRefused',
      `import of ${archive} is refused: it is of ${whose}, and was asked for from namespace ${podNamespace}`,
    );
  }
}

/** What is damaged is the file: no checkpoint of it is there that could be verified or repaired. */
function ofArchive(error: unknown, archive: string): unknown {
  if (!isKybernateError(error, 'CheckpointCorrupt')) {
    return error;
  }
  const details = { ...error.details, file: archive, remedy: 'the archive is damaged: take another one' };
  return new KybernateError('CheckpointCorrupt', `${archive}: ${error.message}`, { details, cause: error });
}
