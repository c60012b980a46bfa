export interface BenchOptions {
  readonly mib: number;
  readonly rounds: number;
  /** empty directory on a tmpfs */
  readonly dir: string;
  readonly bundle: string;
  readonly say: (line: string) => void;
}

export interface Row {
  readonly name: string;
  readonly goal: string;
  readonly holds: boolean;
  readonly [fact: string]: unknown;
}
