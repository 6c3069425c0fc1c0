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

/** Chinese characters, kana, hangul, full-width forms and emoji begin here, and are about two letters wide. */
const FIRST_WIDE = 0x2e80;

/**
 * The last words before `position`, for saying where a photo stands; empty at the beginning. `room` is in letters of average
 * width: it is the end that tells where something stands, so it is the beginning that is cut off.
 */
export function wordsBefore(content: string, position: number, room = 20): string {
  const before = [...content.substring(0, clampPosition(content, position)).replace(/\s+/g, " ").trimEnd()];
  let start = before.length;
  for (let left = room; start > 0; start -= 1) {
    left -= (before[start - 1]?.codePointAt(0) ?? 0) >= FIRST_WIDE ? 2 : 1;
    if (left < 0) break;
  }
  return start === 0 ? before.join("") : `…${before.slice(start).join("").trimStart()}`;
}
