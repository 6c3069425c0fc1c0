/** How far each channel has been seen: what is a repetition, and from where to resume. */

import type { HistoryPoint } from "./wire/extensions.js";
import type { Positioned } from "./wire/frame.js";

/** One point per channel. Bounded by the channels that a user follows. */
export class HistoryPoints {
  private readonly points = new Map<string, HistoryPoint>();

  /** Notes that `event` is seen; `false` where it, or a later one, was seen before. An event without position is always new. */
  see(event: Positioned): boolean {
    const { channel, epoch, seq } = event;
    if (channel === undefined || epoch === undefined || seq === undefined) return true;
    const known = this.points.get(channel);
    // Another epoch is another history: its numbers do not compare.
    if (known?.epoch === epoch && known.seq >= seq) return false;
    this.points.set(channel, { epoch, seq });
    return true;
  }

  /** Sets the point outright, as after a replay that failed. */
  set(channel: string, point: HistoryPoint): void {
    this.points.set(channel, point);
  }

  get(channel: string): HistoryPoint | undefined {
    return this.points.get(channel);
  }

  delete(channel: string): void {
    this.points.delete(channel);
  }

  /** Every channel that has a point. */
  channels(): readonly string[] {
    return [...this.points.keys()];
  }
}
