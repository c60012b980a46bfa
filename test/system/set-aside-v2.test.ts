/* The way out of a frozen cgroup and back in the unified hierarchy, on whatever part of it this machine has. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { ContainerFacts } from '../../engine/container-facts.ts';
import { freeze, freezerState, thaw } from '../../engine/freezer.ts';
import { setAside, takeBack } from '../../engine/set-aside.ts';
import { groupPids } from '../../native/proc/cgroup.ts';
import { readMounts } from '../../native/proc/mounts.ts';
import { readProcess } from '../../native/proc/tree.ts';
import { until } from '../harness/stack.ts';

const unified = readMounts('self').find(({ type }) => type === 'cgroup2')?.mountPoint;
const reason =
  unified === undefined
    ? 'no cgroup v2 is mounted'
    : spawnSync('gcc', ['--version']).status === 0
      ? undefined
      : 'gcc is not installed';

/** Denies a cgroup every device. */
const DENY = `
#include <fcntl.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int count, char **words) {
  struct bpf_insn code[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K}, {.code = BPF_JMP | BPF_EXIT}};
  union bpf_attr load = {.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE, .insns = (unsigned long)code, .insn_cnt = 2,
                         .license = (unsigned long)"GPL"};
  int program = syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load);
  union bpf_attr attach = {.target_fd = open(words[1], O_RDONLY), .attach_bpf_fd = program,
                           .attach_type = BPF_CGROUP_DEVICE, .attach_flags = BPF_F_ALLOW_MULTI};
  return count < 2 || program < 0 || syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof attach) < 0;
}`;
/** Opens a device again and again, and tells how often it could and could not. */
const OPENS = `import os, sys, time
could = could_not = 0
while True:
    try:
        os.close(os.open("/dev/zero", os.O_RDONLY))
        could += 1
    except PermissionError:
        could_not += 1
    with open(sys.argv[1] + ".new", "w") as out:
        out.write(f"{could} {could_not}")
    os.rename(sys.argv[1] + ".new", sys.argv[1])
    time.sleep(0.01)`;

const silent = (): void => undefined;

describe.skipIf(reason !== undefined)(`cgroup v2${reason === undefined ? '' : ` (${reason})`}`, () => {
  const operationId = '0123456789abcdef'.repeat(2);
  const warnings: unknown[] = [];
  const log = { debug: silent, info: silent, warn: (fields: unknown) => void warnings.push(fields), error: silent };
  let dir: string;
  let parent: string;
  let path: string;
  let init: ChildProcess;
  let entered: ChildProcess;
  let facts: ContainerFacts;

  const report = (): string => join(dir, 'entered');
  const told = (): readonly number[] =>
    existsSync(report()) ? readFileSync(report(), 'utf8').split(' ').map(Number) : [0, 0];
  const asides = (): string[] => readdirSync(parent).filter((name) => name.startsWith('kybernate-aside-'));

  beforeEach(async () => {
    warnings.length = 0;
    dir = mkdtempSync(join(tmpdir(), 'kybernate-aside-'));
    parent = mkdtempSync(join(unified ?? '', 'kyb-aside-'));
    path = join(parent, 'container');
    mkdirSync(path);
    const built = spawnSync('gcc', ['-x', 'c', '-o', join(dir, 'deny'), '-'], { input: DENY, encoding: 'utf8' });
    expect(built.stderr).toBe('');
    init = spawn('sleep', ['600'], { stdio: 'ignore' });
    entered = spawn('python3', ['-c', OPENS, report()], { stdio: 'ignore' });
    for (const { pid } of [init, entered]) {
      writeFileSync(join(path, 'cgroup.procs'), String(pid));
    }
    await until('the process', () => Number(told()[0]) > 0);
    facts = {
      freezer: { version: 2, path },
      processes: [{ ...readProcess(init.pid ?? 0), entered: false }],
      initHostPid: init.pid,
    } as unknown as ContainerFacts;
  });

  afterEach(async () => {
    await thaw({ version: 2, path });
    [init, entered].forEach((child) => child.kill('SIGKILL'));
    await until('the end of the processes', () => groupPids(path).length === 0);
    asides().forEach((name) => rmdirSync(join(parent, name)));
    rmdirSync(path);
    rmdirSync(parent);
    rmSync(dir, { recursive: true });
  });

  it('what came in by exec runs on beside the frozen group, and stands still in it again', async () => {
    await freeze({ version: 2, path }, 5000);
    const [before = 0] = told();

    setAside({ operationId, facts }, log);
    await until('the process to run on', () => Number(told()[0]) > before + 5);
    expect(groupPids(path)).toEqual([init.pid]);
    expect(freezerState({ version: 2, path })).toBe('frozen');

    await takeBack({ operationId, facts }, log);
    expect(new Set(groupPids(path))).toEqual(new Set([init.pid, entered.pid]));
    await until('the group to stand still', () => freezerState({ version: 2, path }) === 'frozen');
    expect(asides()).toEqual([]);
    expect(warnings).toEqual([]);
  });

  it('it may open no device there that its container may not', async () => {
    expect(spawnSync(join(dir, 'deny'), [path]).status).toBe(0);
    await until('the first refusal', () => Number(told()[1]) > 0);
    await freeze({ version: 2, path }, 5000);
    const [could, couldNot = 0] = told();

    setAside({ operationId, facts }, log);
    await until('the process to try on', () => Number(told()[1]) > couldNot + 5);

    expect(told()[0]).toBe(could);
    await takeBack({ operationId, facts }, log);
    expect(warnings).toEqual([]);
  });

  it('it has the limits of its container', async () => {
    const limited = existsSync(join(path, 'pids.max')) ? 'pids.max' : undefined;
    if (limited !== undefined) {
      writeFileSync(join(path, limited), '77');
    }

    setAside({ operationId, facts }, log);

    const aside = join(parent, asides()[0] ?? '');
    const limitsOf = (group: string): string[] =>
      readdirSync(group)
        .filter((name) => /\.(?:max|high)$/.test(name) && !name.startsWith('cgroup.'))
        .map((name) => `${name} ${readFileSync(join(group, name), 'utf8')}`);
    expect(limitsOf(aside)).toEqual(limitsOf(path));
    await takeBack({ operationId, facts }, log);
    expect(asides()).toEqual([]);
  });
});
