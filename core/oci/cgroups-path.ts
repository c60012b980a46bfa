/** Cgroups from the outermost to the one of a systemd slice: a dash of its name is a step down. Source: systemd.slice(5). */
export function sliceSteps(slice: string): readonly string[] {
  const words = slice.replace(/\.slice$/, '').split('-');
  return words.map((_word, index) => `${words.slice(0, index + 1).join('-')}.slice`);
}
