/**
 * Pictures into a text, by position.
 *
 * A position counts UTF-16 code units, as JavaScript strings do, and refers to the text without pictures. Beyond the end
 * means at the end; a position inside a surrogate pair means before that character.
 */

/** What these functions need to know of a picture. */
export interface Placed {
  readonly url: string;
  readonly position: number;
}

/** A stretch of text, or a picture. */
export type Segment<Image> =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "image"; readonly image: Image };

/** `position` as an index into `content` at which nothing is torn apart. */
export function clampPosition(content: string, position: number): number {
  // NaN and the infinities: the server passes positions through untouched.
  if (Number.isNaN(position)) return content.length;
  const index = Math.trunc(Math.min(Math.max(position, 0), content.length));
  const isInsidePair = isHighSurrogate(content.charCodeAt(index - 1)) && isLowSurrogate(content.charCodeAt(index));
  return isInsidePair ? index - 1 : index;
}

/** The text cut at its pictures, in reading order. Pictures at one position keep their order; empty texts are left out. */
export function segmentsOf<Image extends { readonly position: number }>(
  content: string,
  images: readonly Image[],
): Segment<Image>[] {
  // By the position as given, not as clamped: several pictures beyond the end keep their order too.
  const placed = [...images].sort((left, right) => sortKey(left) - sortKey(right) || 0);
  const segments: Segment<Image>[] = [];
  let done = 0;
  for (const image of placed) {
    const at = clampPosition(content, image.position);
    if (at > done) segments.push({ kind: "text", text: content.substring(done, at) });
    segments.push({ kind: "image", image });
    done = at;
  }
  if (done < content.length) segments.push({ kind: "text", text: content.substring(done) });
  return segments;
}

/** The text with every picture as Markdown at its position; `render` may write something else for a picture. */
export function insertImages<Image extends Placed>(
  content: string,
  images: readonly Image[],
  render: (image: Image) => string = (image) => `![图片](${image.url})`,
): string {
  return segmentsOf(content, images)
    .map((segment) => (segment.kind === "text" ? segment.text : render(segment.image)))
    .join("");
}

/** Positions that are no number go last. (Infinity minus itself is NaN, which the caller reads as equal.) */
function sortKey({ position }: { readonly position: number }): number {
  return Number.isNaN(position) ? Infinity : position;
}

function isHighSurrogate(unit: number): boolean {
  return unit >= 0xd800 && unit <= 0xdbff;
}

function isLowSurrogate(unit: number): boolean {
  return unit >= 0xdc00 && unit <= 0xdfff;
}
