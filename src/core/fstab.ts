/** A line of fstab, its escapes undone. */
export interface FstabLine {
  /** From 1. */
  number: number;
  device: string;
  mountPoint: string;
  fsType: string;
  options: string;
}

/**
 * Reads fstab; comments, empty lines and lines of fewer than three fields are left out, as mount(8) leaves them.
 *
 * Errors: none. Source: fstab(5).
 */
export function parseFstab(text: string): FstabLine[] {
  return text.split('\n').flatMap((line, index) => {
    const fields = line.trim().split(/[ \t]+/);
    if (line.trimStart().startsWith('#') || fields.length < 3) return [];
    const [device = '', mountPoint = '', fsType = '', options = 'defaults'] = fields.map(undoEscapes);
    return [{ number: index + 1, device, mountPoint, fsType, options }];
  });
}

/** `\040` is a space: three octal digits stand for a character that would end the field. */
function undoEscapes(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}
