import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { CriState } from '../../native/containerd/cri.ts';
import { addRuntimes, type ContainerdOptions, removeRuntimes } from './containerd-runtimes.ts';

const CONFIG = 'version = 3\n# of its user\n';

let dir: string;
let config: string;
/** what a restarted containerd says to its configuration */
let restarts: Array<() => number>;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kybernate-runtimes-'));
  config = join(dir, 'config.toml');
  writeFileSync(config, CONFIG, { mode: 0o600 });
  restarts = [];
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function options(more: Partial<ContainerdOptions> = {}): ContainerdOptions {
  return {
    configFile: config,
    version: () => Promise.resolve('v2.4.2'),
    cri: () => Promise.resolve(knowing(existsSync(dropIn()) ? ['runc', 'kybernate', 'kybernate-gpu'] : ['runc'])),
    restart: 'restart it',
    settleMs: 0,
    run: () => Promise.resolve({ exitCode: restarts.shift()?.() ?? 0, stderr: 'it does not start' } as never),
    say: () => undefined,
    ...more,
  };
}

function knowing(handlers: readonly string[]): CriState {
  return { plugin: 'loaded', runtimes: new Map(handlers.map((handler) => [handler, '/opt/k/shim'])) };
}

const dropIn = (): string => join(dir, 'conf.d/kybernate.toml');
const text = (): string => readFileSync(config, 'utf8');

it('adds the runtimes once, and takes them out again to the byte', async () => {
  expect(await addRuntimes('/opt/k/shim', options())).toBe('restarted');
  expect(text()).toContain('kybernate.toml');
  expect(await addRuntimes('/opt/k/shim', options())).toBe('unchanged');

  expect(await removeRuntimes(options())).toBe('restarted');

  expect(text()).toBe(CONFIG);
  expect(existsSync(dropIn())).toBe(false);
});

it('leaves the mode of the configuration, which may hold passwords, as it is', async () => {
  await addRuntimes('/opt/k/shim', options());

  expect(statSync(config).mode & 0o777).toBe(0o600);
});

it('changes the file that a link leads to, and refuses a link to nowhere', async () => {
  const real = join(dir, 'real/config.toml');
  mkdirSync(join(dir, 'real'));
  writeFileSync(real, CONFIG);
  rmSync(config);
  symlinkSync(real, config);

  await addRuntimes('/opt/k/shim', options());
  expect(readFileSync(real, 'utf8')).toContain('kybernate.toml');

  rmSync(real);
  await expect(addRuntimes('/opt/k/shim', options())).rejects.toMatchObject({ type: 'Incompatible' });
});

it('puts everything back when containerd does not start with it', async () => {
  restarts = [() => 1];

  await expect(addRuntimes('/opt/k/shim', options())).rejects.toMatchObject({
    type: 'Incompatible',
    message: expect.stringContaining('it does not start') as string,
  });

  expect(text()).toBe(CONFIG);
  expect(existsSync(dropIn())).toBe(false);
  expect(await addRuntimes('/opt/k/shim', options())).toBe('restarted');
});

it('knows what to put back also when the installer before it was killed in the restart', async () => {
  let [left, mark] = ['', ''];
  restarts = [
    () => {
      [left, mark] = [text(), readFileSync(join(dir, 'conf.d/.kybernate-restart'), 'utf8')];
      return 0;
    },
  ];
  await addRuntimes('/opt/k/shim', options());
  writeFileSync(join(dir, 'conf.d/.kybernate-restart'), mark);
  expect(text()).toBe(left);
  restarts = [() => 1];

  await expect(addRuntimes('/opt/k/shim', options())).rejects.toMatchObject({ type: 'Incompatible' });

  expect(text()).toBe(CONFIG);
  expect(existsSync(dropIn())).toBe(false);
});

it('asks for a restart where it may not restart, and for no second one of its own', async () => {
  const { restart: _restart, ...byHand } = options();

  expect(await addRuntimes('/opt/k/shim', byHand)).toBe('restart needed');
  expect(await addRuntimes('/opt/k/shim', options())).toBe('restarted');
  expect(await addRuntimes('/opt/k/shim', options())).toBe('unchanged');
});

it('refuses a containerd that would ignore the path of our shim', async () => {
  await expect(addRuntimes('/opt/k/shim', options({ version: () => Promise.resolve('1.6.20') }))).rejects.toMatchObject(
    { type: 'Incompatible' },
  );
  expect(text()).toBe(CONFIG);
});

it.each<[string, () => CriState, RegExp]>([
  [
    'does not start',
    () => ({ plugin: 'failed', error: 'io.containerd.cri.v1.runtime: no CNI' }),
    /does not work: .*no CNI/,
  ],
  ['has read another file', () => knowing(['runc']), /no runtime kybernate, kybernate-gpu .*--containerd-config/],
])('puts everything back when containerd answers, and its CRI plug-in %s', async (_what, after, message) => {
  const states: CriState[] = [knowing(['runc']), after()];

  const added = addRuntimes('/opt/k/shim', options({ cri: () => Promise.resolve(states.shift() ?? knowing([])) }));

  await expect(added).rejects.toMatchObject({
    type: 'Incompatible',
    message: expect.stringMatching(message) as string,
  });
  expect(text()).toBe(CONFIG);
  expect(existsSync(dropIn())).toBe(false);
});

it('waits for a CRI plug-in that does not answer yet', async () => {
  let asked = 0;
  const cri = (): Promise<CriState> => {
    asked += 1;
    const known = knowing(['kybernate', 'kybernate-gpu']);
    return asked === 2 ? Promise.reject(new Error('server is not initialized yet')) : Promise.resolve(known);
  };

  expect(await addRuntimes('/opt/k/shim', options({ cri }))).toBe('restarted');
});

it('changes nothing where the CRI plug-in has failed before, or is off and pods are to run', async () => {
  const failed = options({ cri: () => Promise.resolve({ plugin: 'failed', error: 'cri: bad' }) });
  const off = options({ cri: () => Promise.resolve({ plugin: 'off' }) });

  await expect(addRuntimes('/opt/k/shim', failed)).rejects.toThrow(/no pod runs .*cri: bad; nothing was changed/);
  await expect(addRuntimes('/opt/k/shim', { ...off, requireCri: true })).rejects.toThrow(/disabled_plugins/);
  expect(text()).toBe(CONFIG);

  const said: string[] = [];
  expect(await addRuntimes('/opt/k/shim', { ...off, say: (line) => said.push(line) })).toBe('unchanged');
  expect(said.join()).toMatch(/disabled_plugins/);
  expect(text()).toBe(CONFIG);
});

it('takes back what a killed installer has left, when pods cannot run with it', async () => {
  let mark = '';
  restarts = [() => ((mark = readFileSync(join(dir, 'conf.d/.kybernate-restart'), 'utf8')), 0)];
  await addRuntimes('/opt/k/shim', options());
  writeFileSync(join(dir, 'conf.d/.kybernate-restart'), mark);

  const broken = options({ cri: () => Promise.resolve({ plugin: 'failed', error: 'cri: bad' }) });
  await expect(addRuntimes('/opt/k/shim', broken)).rejects.toThrow(
    /cri: bad; a killed installation .* as it was before/,
  );

  expect(text()).toBe(CONFIG);
  expect(existsSync(dropIn())).toBe(false);
  await expect(addRuntimes('/opt/k/shim', broken)).rejects.toThrow(/nothing was changed/);
});

it('waits for the containerd that it has started, while the one of before still answers', async () => {
  const states = [knowing(['runc']), knowing(['runc'])];
  const cri = (): Promise<CriState> =>
    Promise.resolve(states.shift() ?? knowing(['runc', 'kybernate', 'kybernate-gpu']));

  expect(await addRuntimes('/opt/k/shim', options({ cri, settleMs: 2000 }))).toBe('restarted');
});

it('tells a containerd that was never restarted with what lies there', async () => {
  await addRuntimes('/opt/k/shim', options());

  await expect(addRuntimes('/opt/k/shim', options({ cri: () => Promise.resolve(knowing(['runc'])) }))).rejects.toThrow(
    /was not restarted since/,
  );
  expect(text()).toContain('kybernate.toml');
});
