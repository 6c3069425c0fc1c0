/**
 * Events of many channels, each once and in order, across reconnects.
 *
 * After a break the client asks for what it missed. Until that has come, new events of the same channel arrive in between:
 * they are held back here, for a later event that is let through would make the earlier ones look like repetitions.
 * The server answers in order, so an answered ping says that everything asked for before it has come.
 */

import type { HistoryPoint, ResumedFrame, ResumeFailedFrame } from "./wire/extensions.js";
import type { Positioned } from "./wire/frame.js";

/** What to do with an event, or with an answer, which is `hidden` where the application did not ask. */
export type Verdict = "deliver" | "stale" | "held" | "hidden";

/** Most that is held back of one channel; a replay that lets more pile up is given up. */
const MAX_HELD = 10_000;

interface Pending<Event> {
  /** Replays asked for and not yet answered. */
  asked: number;
  /** From where, as far as it is known. */
  start: HistoryPoint | undefined;
  /** The last event of the replay, once the server has announced it; `null` before. */
  end: HistoryPoint | null;
  held: Event[];
  /** So much was held back that the rest of the replay is not waited for: nothing is held any more. */
  isGivenUp: boolean;
}

/** How far each channel has been seen. Bounded by the channels that a user follows. */
export class Replay<Event extends Positioned> {
  /** The newest event delivered. */
  private readonly points = new Map<string, HistoryPoint>();
  /**
   * Where the server says that nothing older can be had, or that a channel stood when it was joined: to resume from, but no
   * proof that anything was delivered.
   */
  private readonly floors = new Map<string, HistoryPoint>();
  private readonly pending = new Map<string, Pending<Event>>();

  /** Whether `event` is new, old, or too early. An event without a position is always new. */
  judge(event: Event): Verdict {
    const { channel, epoch, seq } = event;
    if (channel === undefined || epoch === undefined || seq === undefined) return "deliver";
    if (this.isOld(channel, { epoch, seq })) return "stale";
    const pending = this.pending.get(channel);
    const isReplayed = pending?.end?.epoch === epoch && seq <= pending.end.seq;
    // What waited for the user from before the replay's start is older than all of it, and does not come again with it.
    const isEarlier = pending?.start?.epoch === epoch && seq <= pending.start.seq;
    if (pending !== undefined && !isReplayed && !isEarlier && !pending.isGivenUp) {
      pending.held.push(event);
      return "held";
    }
    this.points.set(channel, { epoch, seq });
    return "deliver";
  }

  /** A replay of `channel` was asked for. Every call must be followed by one of {@link finish} or {@link abandon}. */
  begin(channel: string): void {
    const pending = this.pending.get(channel) ?? { asked: 0, start: this.point(channel), end: null, held: [], isGivenUp: false };
    pending.asked += 1;
    pending.isGivenUp = false;
    this.pending.set(channel, pending);
  }

  /** The server announces a replay. */
  resumed({ channel, epoch, seq }: ResumedFrame): void {
    const pending = this.pending.get(channel);
    if (pending !== undefined) pending.end = { epoch, seq };
  }

  /** The server cannot replay: of what came before this point, only what is on its way already will come. */
  failed({ channel, epoch, seq }: ResumeFailedFrame): void {
    this.floors.set(channel, { epoch, seq });
    if (this.points.get(channel)?.epoch !== epoch) this.points.delete(channel);
  }

  /** The server tells where `channel` stood when it was joined; what is known already of it is nearer to what was delivered. */
  joined(channel: string, point: HistoryPoint): void {
    if (this.point(channel) === undefined) this.floors.set(channel, point);
  }

  /** The replay of `channel` is over; returns what was held back and is to be delivered now, oldest first. */
  finish(channel: string): readonly Event[] {
    const pending = this.pending.get(channel);
    if (pending === undefined) return [];
    pending.asked -= 1;
    if (pending.asked > 0) return [];
    this.pending.delete(channel);
    return this.released(inOrder(pending.held));
  }

  /**
   * Gives the replay of `channel` up where more is held back than there is room for: a later event that was let through would
   * make the rest of the replay, and all that is held, look like repetitions. Returns that failure and what was held back,
   * both to be delivered now, in this order; `null` where there is room.
   */
  giveUpIfFull(channel: string): { readonly failure: ResumeFailedFrame; readonly events: readonly Event[] } | null {
    const pending = this.pending.get(channel);
    if (pending === undefined || pending.held.length <= MAX_HELD) return null;
    const held = inOrder(pending.held);
    pending.held = [];
    pending.isGivenUp = true;
    const { epoch = "", seq = 0 } = held[0] ?? {};
    const failure = { type: "resume_failed", channel, epoch, seq: seq - 1, reason: "overflow" } as const;
    this.failed(failure);
    return { failure, events: this.released(held) };
  }

  /** The connection is lost: what was held back comes again with the next replay. */
  abandon(): void {
    this.pending.clear();
  }

  /** Where to resume `channel`. */
  point(channel: string): HistoryPoint | undefined {
    const [point, floor] = [this.points.get(channel), this.floors.get(channel)];
    if (point === undefined || floor === undefined) return point ?? floor;
    return point.epoch === floor.epoch && floor.seq > point.seq ? floor : point;
  }

  /** Begins `channel` at `point`: what came up to there counts as delivered. */
  setPoint(channel: string, point: HistoryPoint): void {
    this.points.set(channel, point);
  }

  /** Goes back to `point` where `channel` is beyond it: what came after it is to be delivered once more. */
  rewind(channel: string, point: HistoryPoint): void {
    if (this.isOld(channel, point)) this.points.set(channel, point);
  }

  forget(channel: string): void {
    this.points.delete(channel);
    this.floors.delete(channel);
    this.pending.delete(channel);
  }

  /** Every channel that has a point. */
  channels(): readonly string[] {
    return [...new Set([...this.points.keys(), ...this.floors.keys()])];
  }

  /** `held`, which is in order, without what was seen meanwhile. */
  private released(held: readonly Event[]): readonly Event[] {
    return held.filter((event) => this.judge(event) === "deliver");
  }

  private isOld(channel: string, { epoch, seq }: HistoryPoint): boolean {
    const known = this.points.get(channel);
    // Another epoch is another history: its numbers do not compare.
    return known?.epoch === epoch && known.seq >= seq;
  }
}

/** What waited for a user while away may come after what is new. Numbers of different histories do not compare. */
function inOrder<Event extends Positioned>(events: readonly Event[]): readonly Event[] {
  const isOneHistory = events.every(({ epoch }) => epoch === events[0]?.epoch);
  return isOneHistory ? [...events].sort((left, right) => (left.seq ?? 0) - (right.seq ?? 0)) : events;
}
