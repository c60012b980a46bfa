import type { WrapperDeps } from './job.ts';
export async function giveGpus(_deps: WrapperDeps, _argv: readonly string[], _root: string): Promise<void> {}
