/* The little of redis' protocol (RESP) that the demo needs: send commands, await their replies in order. */
import { connect, type Socket } from 'node:net';

export type Reply = string | number | null | Reply[];

export class RedisConnection {
  readonly #socket: Socket;
  #buffer = Buffer.alloc(0);
  readonly #waiting: { resolve(reply: Reply): void; reject(error: Error): void }[] = [];

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (data: Buffer) => this.#read(data));
    socket.on('error', (error) => this.#end(error));
    socket.on('close', () => this.#end(new Error('connection closed')));
  }

  static open(port: number): Promise<RedisConnection> {
    return new Promise((resolve, reject) => {
      const socket = connect({ host: '127.0.0.1', port });
      socket.once('error', reject);
      socket.once('connect', () => {
        socket.off('error', reject);
        resolve(new RedisConnection(socket));
      });
    });
  }

  send(...words: string[]): Promise<Reply> {
    const text = `*${words.length}\r\n${words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join('')}`;
    return new Promise((resolve, reject) => {
      if (this.#socket.destroyed) {
        reject(new Error('connection closed'));
        return;
      }
      this.#waiting.push({ resolve, reject });
      this.#socket.write(text);
    });
  }

  close(): void {
    this.#socket.destroy();
  }

  #end(error: Error): void {
    for (const waiter of this.#waiting.splice(0)) {
      waiter.reject(error);
    }
  }

  #read(data: Buffer): void {
    this.#buffer = Buffer.concat([this.#buffer, data]);
    for (;;) {
      const parsed = parse(this.#buffer, 0);
      if (parsed === undefined) {
        return;
      }
      this.#buffer = this.#buffer.subarray(parsed.next);
      this.#waiting.shift()?.resolve(parsed.reply);
    }
  }
}

function parse(buffer: Buffer, at: number): { reply: Reply; next: number } | undefined {
  const end = buffer.indexOf('\r\n', at);
  if (end < 0) {
    return undefined;
  }
  const line = buffer.toString('utf8', at + 1, end);
  const next = end + 2;
  switch (String.fromCharCode(buffer[at] ?? 0)) {
    case '+':
      return { reply: line, next };
    case '-':
      throw new Error(`redis: ${line}`);
    case ':':
      return { reply: Number(line), next };
    case '$': {
      const length = Number(line);
      if (length < 0) {
        return { reply: null, next };
      }
      return buffer.length < next + length + 2
        ? undefined
        : { reply: buffer.toString('utf8', next, next + length), next: next + length + 2 };
    }
    case '*': {
      const items: Reply[] = [];
      let position = next;
      for (let count = Number(line); count > 0; count -= 1) {
        const item = parse(buffer, position);
        if (item === undefined) {
          return undefined;
        }
        items.push(item.reply);
        position = item.next;
      }
      return { reply: items, next: position };
    }
    default:
      throw new Error('not a reply of redis');
  }
}
