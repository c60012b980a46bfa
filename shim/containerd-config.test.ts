import { describe, expect, it } from 'vitest';
import {
  configVersion,
  minimalConfig,
  runtimesConfig,
  usesSystemdCgroup,
  withImport,
  withoutImport,
} from './containerd-config.ts';

const FILE = '/etc/containerd/config.toml';
const DROP_IN = '/etc/containerd/conf.d/kybernate.toml';

const TEXTS: Readonly<Record<string, string>> = {
  'a file without imports': 'version = 3\nroot = "/x"\n[grpc]\n  address = "/y"\n',
  'a file with a comment first': '# ours\n\nversion = 2\n\n[plugins]\n',
  'an empty list': "version = 3\nimports = []\n[plugins.'a.b']\n",
  'a list of one line': 'version = 3\nimports = ["/a.toml"] # here\n',
  'a list of several lines':
    'version = 3\nimports = [\n  "/a.toml",\n  \'/b.toml\'\n]\n[plugins.x]\n  imports = ["no"]\n',
  'a list that ends with a comma': 'version = 2\nimports = ["/a.toml",]\n',
};

describe('the import of our file', () => {
  it.each(Object.entries(TEXTS))('is put into %s and taken out again without a trace', (_, text) => {
    const changed = withImport(text, DROP_IN, FILE);

    expect(changed).toContain(JSON.stringify(DROP_IN));
    expect(withImport(changed, DROP_IN, FILE)).toBe(changed);
    expect(withoutImport(changed, DROP_IN)).toBe(text);
  });

  it.each(['/etc/containerd/conf.d/*.toml', 'conf.d/*.toml', DROP_IN])('is there already by %s', (pattern) => {
    const text = `version = 3\nimports = ["${pattern}"]\n`;

    expect(withImport(text, DROP_IN, FILE)).toBe(text);
  });

  it('is not guessed into a list that is not understood', () => {
    expect(() => withImport('version = 3\nimports = other\n', DROP_IN, FILE)).toThrow(/add .* by hand/);
  });

  it('is the whole file where containerd had none', () => {
    const text = minimalConfig(DROP_IN);

    expect(configVersion(text, FILE)).toBe(2);
    expect(withImport(text, DROP_IN, FILE)).toBe(text);
  });
});

it.each([2, 3, 4] as const)('runtimesConfig of version %d names both handlers', (version) => {
  const text = runtimesConfig(version, { launcher: '/opt/k/bin/shim', systemdCgroup: false });

  expect(configVersion(text, FILE)).toBe(version);
  expect(text).toContain(version === 2 ? '"io.containerd.grpc.v1.cri"' : '"io.containerd.cri.v1.runtime"');
  expect(text.match(/^\[plugins.*runtimes\.kybernate(-gpu)?\]$/gm)).toHaveLength(2);
  expect(text).not.toContain('SystemdCgroup');
});

it('runtimesConfig puts containers below systemd where the runtimes of the user do', () => {
  const systemdCgroup = usesSystemdCgroup('[a.options]\n  SystemdCgroup = true\n');

  expect(runtimesConfig(3, { launcher: '/s', systemdCgroup })).toMatch(
    /kybernate\.options\]\n {4}SystemdCgroup = true/,
  );
  expect(usesSystemdCgroup('  SystemdCgroup = false\n# SystemdCgroup = true\n')).toBe(false);
});

it.each(['root = "/x"\n', 'version = 1\n', 'version = 5\n', '[plugins.x]\nversion = 2\n'])(
  'configVersion refuses %j',
  (text) => {
    expect(() => configVersion(text, FILE)).toThrow(/containerd config migrate/);
  },
);
