/** Where a dragged file would fall. */

/** True for a drag that carries files. */
export function hasFiles(event: DragEvent): boolean {
  return event.dataTransfer?.types.includes("Files") === true;
}

/** The index into the text of `area` under the point, in UTF-16 code units; `null` elsewhere, or where it cannot be told. */
export function caretAt(area: HTMLTextAreaElement, x: number, y: number): number | null {
  if (document.elementFromPoint(x, y) !== area || typeof document.caretPositionFromPoint !== "function") return null;
  const caret = document.caretPositionFromPoint(x, y);
  // Older engines answer with the text's surroundings instead of the field itself.
  return caret?.offsetNode === area ? caret.offset : null;
}
