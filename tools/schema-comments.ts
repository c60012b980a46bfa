/*
 * Reads the comment above each field of a zod object from its source: the schemas document their fields by comments,
 * and the tables in docs/ say the same. Relies on the layout that the formatter gives: a field opens its own line, and
 * what belongs to it is indented deeper.
 */

const FIELD_PATTERN = /^(\s+)(\w+):/;

/**
 * @param source text of the file
 * @param constName name of the exported schema
 * @returns path of a field (`container.id`) → its comment on one line
 */
export function schemaComments(source: string, constName: string): Map<string, string> {
  const lines = source.split('\n');
  const start = lines.findIndex((line) => line.startsWith(`export const ${constName} =`));
  if (start < 0) {
    throw new Error(`no exported schema ${constName}`);
  }
  const comments = new Map<string, string>();
  // Fields that enclose the current line, outermost first.
  let open: Array<{ indent: number; name: string }> = [];
  let comment: string[] | undefined;
  let inComment = false;
  for (const line of lines.slice(start + 1)) {
    if (/^\S/.test(line) && !line.startsWith('}')) {
      break;
    }
    const text = line.trim();
    if (inComment || text.startsWith('/**')) {
      comment = inComment ? [...(comment ?? []), commentText(text)] : [commentText(text)];
      inComment = !text.endsWith('*/');
      continue;
    }
    const field = FIELD_PATTERN.exec(line);
    if (field !== null) {
      const indent = field[1]?.length ?? 0;
      open = open.filter((outer) => outer.indent < indent);
      open.push({ indent, name: field[2] ?? '' });
      if (comment !== undefined) {
        comments.set(open.map((outer) => outer.name).join('.'), comment.filter((part) => part !== '').join(' '));
      }
    }
    comment = undefined;
  }
  return comments;
}

function commentText(line: string): string {
  return line
    .replace(/^\/\*\*/, '')
    .replace(/\*\/$/, '')
    .replace(/^\*/, '')
    .trim();
}
