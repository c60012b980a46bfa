/* A checkpoint archive as Podman writes it, small and made by hand, and tar members that no honest writer makes. */

const BLOCK = 512;

export interface Member {
  readonly name: string;
  readonly content?: Uint8Array | string;
  /** default: a regular file */
  readonly type?: string;
  readonly mode?: number;
  readonly link?: string;
  /** instead of the length of the content */
  readonly size?: string;
  readonly magic?: string;
}

/** One member, believed in everything. */
export function tarMember({ name, content = '', type = '0', mode = 0o600, link = '', size, magic }: Member): Buffer {
  const bytes = Buffer.from(content);
  const header = Buffer.alloc(BLOCK);
  header.write(name, 0, 100, 'latin1');
  header.write(mode.toString(8).padStart(7, '0'), 100);
  header.write('0000000', 108);
  header.write('0000000', 116);
  header.write(size ?? bytes.length.toString(8).padStart(11, '0'), 124, 12, 'latin1');
  header.write('14733543000', 136);
  header.write(type, 156);
  header.write(link, 157, 100, 'latin1');
  header.write(magic ?? 'ustar\u000000', 257, 8, 'latin1');
  return Buffer.concat([withChecksum(header), bytes, Buffer.alloc((BLOCK - (bytes.length % BLOCK)) % BLOCK)]);
}

function withChecksum(header: Buffer): Buffer {
  header.fill(0x20, 148, 156);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\u0000 `, 148, 'latin1');
  return header;
}

export function paxMember(records: Readonly<Record<string, string>>): Buffer {
  const content = Object.entries(records)
    .map(([key, value]) => {
      const rest = Buffer.byteLength(` ${key}=${value}\n`);
      const digits = String(rest + String(rest).length).length;
      return `${rest + digits} ${key}=${value}\n`;
    })
    .join('');
  return tarMember({ name: 'pax', type: 'x', content });
}

export function tarOf(members: ReadonlyArray<Member | Buffer>): Buffer {
  const parts = members.map((member) => (Buffer.isBuffer(member) ? member : tarMember(member)));
  return Buffer.concat([...parts, Buffer.alloc(2 * BLOCK)]);
}

function varint(value: number): number[] {
  return value < 128 ? [value] : [(value % 128) + 128, ...varint(Math.floor(value / 128))];
}

/** A protobuf message of integers and bytes. */
function message(fields: ReadonlyArray<readonly [number: number, value: number | Uint8Array | string]>): Buffer {
  return Buffer.concat(
    fields.map(([number, value]) => {
      if (typeof value === 'number') {
        return Buffer.from([number * 8, ...varint(value)]);
      }
      const bytes = Buffer.from(value);
      return Buffer.concat([Buffer.from([number * 8 + 2, ...varint(bytes.length)]), bytes]);
    }),
  );
}

function image(magic: readonly number[], records: readonly Buffer[]): Buffer {
  const begin = Buffer.alloc(magic.length * 4);
  magic.forEach((value, at) => begin.writeUInt32LE(value, at * 4));
  const framed = records.flatMap((record) => {
    const length = Buffer.alloc(4);
    length.writeUInt32LE(record.length);
    return [length, record];
  });
  return Buffer.concat([begin, ...framed]);
}

const COMMON = 0x54564319;

/** Two processes: 1 and its child 7, whose root directory had the mode 0555. */
export function criuImages(): Record<string, Buffer> {
  const process = (pid: number, parent: number): Buffer =>
    message([
      [1, pid],
      [2, parent],
      [3, pid],
      [4, pid],
      [5, pid],
    ]);
  const core = (command: string): Buffer =>
    image(
      [COMMON, 0x55053847],
      [
        message([
          [1, 1],
          [3, message([[6, command]])],
        ]),
      ],
    );
  return {
    'inventory.img': image([0x58313116], [message([[1, 2]])]),
    'pstree.img': image([COMMON, 0x50273030], [process(1, 0), process(7, 1)]),
    'core-1.img': core('sh'),
    'core-7.img': core('sleep'),
    'files.img': image(
      [COMMON, 0x56303138],
      [
        message([
          [1, 1],
          [2, 1],
          [
            3,
            message([
              [1, 1],
              [6, '/'],
              [10, 0o40555],
            ]),
          ],
        ]),
      ],
    ),
    'pages-1.img': Buffer.alloc(8192, 'page'),
    'descriptors.json': Buffer.from('["/dev/null","pipe:[1]","pipe:[2]"]'),
  };
}

export const CONTAINER = 'c0'.repeat(32);
const USERDATA = `/run/containers/storage/overlay-containers/${CONTAINER}/userdata`;

export function sampleSpec(): Record<string, unknown> {
  return {
    ociVersion: '1.0.2-dev',
    process: { terminal: false, args: ['/bin/sh'], env: ['A=b'], rlimits: null },
    root: { path: '/var/lib/containers/storage/overlay/x/merged' },
    hostname: 'c0',
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc' },
      { destination: '/etc/hosts', type: 'bind', source: `${USERDATA}/hosts`, options: ['bind'] },
      { destination: '/dev/shm', type: 'bind', source: `${USERDATA}/shm`, options: ['bind'] },
      { destination: '/srv/', type: 'bind', source: '/nowhere/kybernate', options: ['rbind'] },
      { destination: '/kept', type: 'bind', source: '/var/lib/containers/storage/volumes/v/_data', options: ['bind'] },
      { destination: '/proc/acpi', type: 'bind', source: '/dev/null', options: ['bind'] },
    ],
    hooks: { prestart: [{ path: '/bin/evil' }] },
    annotations: { 'io.container.manager': 'libpod', 'user.own': 'kept' },
    linux: {
      cgroupsPath: `/libpod_parent/libpod-${CONTAINER}`,
      namespaces: ['pid', 'network', 'ipc', 'uts', 'mount'].map((type) => ({ type })),
      resources: { pids: { limit: 2048 }, memory: null },
      maskedPaths: ['/proc/kcore', '/proc/not-of-this-kernel'],
      readonlyPaths: ['/proc/not-of-this-kernel'],
    },
  };
}

export function sampleConfig(): Record<string, unknown> {
  return {
    id: CONTAINER,
    name: 'Web 1',
    rootfsImageID: 'ab'.repeat(32),
    rootfsImageName: 'docker.io/library/web:1',
    runtime: 'runc',
    labels: { team: 'a' },
    namedVolumes: [{ volumeName: 'v', dest: '/kept' }],
  };
}

/** The files of an archive by name, as `tarMember` takes them; change what a case is about. */
export function sampleMembers(): Map<string, Member> {
  const rootfs = tarOf([
    { name: 'data/own', content: 'mine' },
    { name: 'etc', type: '5', mode: 0o755 },
    { name: 'etc/mtab', type: '2', link: '/proc/mounts' },
    { name: 'usr/.wh.gone' },
    { name: './', type: '5', mode: 0o777 },
  ]);
  const volume = tarOf([
    { name: './', type: '5', mode: 0o755 },
    { name: './y', content: 'volume' },
    { name: './again', type: '1', link: 'y' },
  ]);
  const members: Member[] = [
    { name: 'artifacts/', type: '5', mode: 0o755 },
    { name: 'config.dump', content: JSON.stringify(sampleConfig()) },
    { name: 'spec.dump', content: JSON.stringify(sampleSpec()) },
    { name: 'network.status', content: 'null' },
    { name: 'stats-dump', content: 'stats' },
    { name: 'ctr.log', content: 'log' },
    { name: 'checkpoint/', type: '5' },
    ...Object.entries(criuImages()).map(([name, content]) => ({ name: `checkpoint/${name}`, content })),
    { name: 'rootfs-diff.tar', content: rootfs },
    { name: 'deleted.files', content: '["/etc/old"]' },
    { name: 'devshm-checkpoint.tar', content: tarOf([{ name: 'x', content: 'shm' }]) },
    { name: 'volumes/v.tar', content: volume },
  ];
  return new Map(members.map((member) => [member.name, member]));
}
