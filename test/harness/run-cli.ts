/* A command line of `kybernate` inside of the test's process, against real servers: no start of Node for each. */
import type { Environment } from '../../cli/config.ts';
import { connectOperations } from '../../cli/connect.ts';
import { run } from '../../cli/program.ts';
import { createFakeCli } from './fake-cli.ts';

export interface CliRun {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** @param env all that the command sees of an environment, but for what SDKs read from the process's own */
export async function runCli(env: Environment, ...args: readonly string[]): Promise<CliRun> {
  const fake = createFakeCli({ env });
  const code = await run(args, { ...fake.cli, connect: () => connectOperations(env) });
  return { exitCode: code === 0 ? (fake.exitCode() ?? 0) : code, stdout: fake.stdout(), stderr: fake.stderr() };
}

/** With `--json`. @returns what it printed */
export async function runCliJson<Answer>(env: Environment, ...args: readonly string[]): Promise<Answer> {
  const { stdout, stderr } = await runCli(env, ...args, '--json');
  if (stdout === '') {
    throw new Error(`kybernate ${args.join(' ')} printed nothing: ${stderr}`);
  }
  return JSON.parse(stdout) as Answer;
}
