/*
 * A CRIU configuration file: one option a line, without dashes. It reaches a `criu` that runc starts by the variable
 * CRIU_CONFIG_FILE. What runc sends by RPC overrules the file: shell-job, tcp-established, skip-in-flight, link-remap,
 * ext-unix-sk, file-locks, auto-dedup, lazy-pages, manage-cgroups and log level can only be said to runc. Order in CRIU
 * (criu/config.c): /etc/criu/default.conf, $HOME/.criu/default.conf, this file, RPC, runc.conf or `org.criu.config`.
 */
import { KybernateError } from '../../core/errors.ts';

export interface CriuConfigOption {
  /** as on CRIU's command line, without dashes */
  readonly option: string;
  /** absent for a flag */
  readonly value?: string;
}

/**
 * CRIU's parser cuts a value at `#`, wants quotes around blanks and knows no other escape. `action-script` is executed
 * as it stands, without a shell: a path, no arguments.
 *
 * @throws InvalidInput for a value that the format cannot carry
 */
export function criuConfigText(options: readonly CriuConfigOption[]): string {
  return options
    .map(({ option, value }) => {
      if (!/^[a-z][a-z-]*$/.test(option) || (value !== undefined && (value === '' || /[#"\\\s]/.test(value)))) {
        throw new KybernateError('InvalidInput', `CRIU's configuration file cannot hold ${option} ${value ?? ''}`);
      }
      return value === undefined ? `${option}\n` : `${option} ${value}\n`;
    })
    .join('');
}
