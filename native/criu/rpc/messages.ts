/* CRIU's RPC messages as values of ours, and their bytes (proto/criu/rpc.proto). */
import { join } from 'node:path';
import { loadSync, type MessageTypeDefinition, type PackageDefinition } from '@grpc/proto-loader';
import { KybernateError } from '../../../core/errors.ts';
import { protoDirectory } from '../../proto-directory.ts';

export type CriuRequestType = 'DUMP' | 'RESTORE' | 'CHECK' | 'NOTIFY' | 'FEATURE_CHECK' | 'VERSION' | 'SINGLE_PRE_DUMP';

/** As on CRIU's command line, where not said otherwise. What is absent is CRIU's default. */
export interface CriuOptions {
  /** absolute; CRIU must not be older than 3.19, which takes a path here */
  readonly imagesDir: string;
  /** root of the tree to dump, as CRIU's own PID namespace knows it */
  readonly pid?: number;
  /** a name, without a directory: the file lies in the work directory; default: dump.log, pre-dump.log, restore.log */
  readonly logFile?: string;
  /** 0 to 4 */
  readonly logLevel?: number;
  readonly configFile?: string;
  readonly root?: string;
  /** relative to the images' directory */
  readonly parentImg?: string;
  readonly leaveRunning?: boolean;
  readonly leaveStopped?: boolean;
  readonly trackMem?: boolean;
  readonly autoDedup?: boolean;
  readonly extUnixSk?: boolean;
  readonly tcpEstablished?: boolean;
  readonly tcpClose?: boolean;
  readonly tcpSkipInFlight?: boolean;
  readonly networkLock?: 'IPTABLES' | 'NFTABLES' | 'SKIP';
  readonly evasiveDevices?: boolean;
  readonly shellJob?: boolean;
  readonly fileLocks?: boolean;
  readonly linkRemap?: boolean;
  /** bytes */
  readonly ghostLimit?: number;
  readonly forceIrmap?: boolean;
  readonly irmapScanPaths?: readonly string[];
  readonly external?: readonly string[];
  /** descriptors of the `criu` process, which has ours of `CriuCallOptions.fds` from 4 on */
  readonly inheritFd?: ReadonlyArray<{ readonly key: string; readonly fd: number }>;
  readonly autoExtMnt?: boolean;
  readonly extSharing?: boolean;
  readonly extMasters?: boolean;
  readonly skipMnt?: readonly string[];
  readonly enableFs?: readonly string[];
  readonly manageCgroups?: boolean;
  readonly manageCgroupsMode?: 'IGNORE' | 'NONE' | 'PROPS' | 'SOFT' | 'FULL' | 'STRICT' | 'DEFAULT';
  readonly freezeCgroup?: string;
  /** CLONE_NEW* flags of namespaces that come back empty */
  readonly emptyNs?: number;
  /** seconds */
  readonly timeout?: number;
  readonly orphanPtsMaster?: boolean;
  readonly weakSysctls?: boolean;
  /** the restored process becomes our child and not CRIU's */
  readonly rstSibling?: boolean;
  readonly lsmProfile?: string;
  readonly mntnsCompatMode?: boolean;
  readonly unprivileged?: boolean;
}

export interface CriuRequest {
  readonly type: CriuRequestType;
  readonly opts?: Partial<CriuOptions> & {
    readonly imagesDirFd: number;
    readonly workDirFd?: number;
    readonly notifyScripts?: boolean;
  };
  readonly notifySuccess?: boolean;
  readonly features?: Partial<CriuFeatures>;
}

export interface CriuFeatures {
  readonly memTrack: boolean;
  readonly lazyPages: boolean;
  readonly pidfdStore: boolean;
}

export interface CriuVersion {
  readonly majorNumber: number;
  readonly minorNumber: number;
  readonly sublevel?: number;
  readonly gitid?: string;
  readonly name?: string;
}

export interface CriuResponse {
  readonly type: CriuRequestType;
  readonly success: boolean;
  readonly dump?: { readonly restored?: boolean };
  readonly restore?: { readonly pid: number };
  readonly notify?: { readonly script?: string; readonly pid?: number };
  /** an errno of CRIU's, negative or positive */
  readonly crErrno?: number;
  readonly crErrmsg?: string;
  readonly features?: Partial<CriuFeatures>;
  readonly version?: CriuVersion;
}

let loaded: PackageDefinition | undefined;

function message<T extends object>(name: 'Request' | 'Response'): MessageTypeDefinition<T, T> {
  loaded ??= loadSync('rpc.proto', { includeDirs: [join(protoDirectory(), 'criu')], longs: Number, enums: String });
  const definition = loaded[`kybernate.criu.${name}`];
  if (definition === undefined || !('serialize' in definition) || typeof definition.serialize !== 'function') {
    throw new KybernateError('Internal', `proto/criu/rpc.proto has no message ${name}`);
  }
  return definition as unknown as MessageTypeDefinition<T, T>;
}

export function encodeRequest(request: CriuRequest): Uint8Array {
  return message<CriuRequest>('Request').serialize(request);
}

/** @throws Error the bytes are no such message */
export function decodeResponse(bytes: Buffer): CriuResponse {
  return message<CriuResponse>('Response').deserialize(bytes);
}
