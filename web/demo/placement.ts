/** Keeping photos at their place while the text around them is edited. */

import { clampPosition } from "../src/index.js";

/**
 * Where `position` in `before` has gone in `after`: it moves with the text behind an edit, and stays with the text before it.
 * A position inside a replaced stretch goes to the end of what replaced it.
 */
export function movedPosition(before: string, after: string, position: number): number {
  const shorter = Math.min(before.length, after.length);
  let head = 0;
  while (head < shorter && before[head] === after[head]) head += 1;
  let tail = 0;
  while (tail < shorter - head && before[before.length - 1 - tail] === after[after.length - 1 - tail]) tail += 1;
  if (position <= head) return clampPosition(after, position);
  const tailStart = before.length - tail;
  const moved = position >= tailStart ? position + after.length - before.length : after.length - tail;
  return clampPosition(after, moved);
}

/** The last words before `position`, for saying where a photo stands; empty at the beginning. */
export function wordsBefore(content: string, position: number, maxCharacters = 24): string {
  const before = [...content.substring(0, clampPosition(content, position)).replace(/\s+/g, " ").trimEnd()];
  return before.length <= maxCharacters ? before.join("") : `…${before.slice(-maxCharacters).join("").trimStart()}`;
}
