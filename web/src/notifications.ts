/** Notifications, alerts, orders, materials and custom channels: dialect N over a self-healing connection. */

import { IMPLICIT, isOwnChannel } from "./channels.js";
import type { Dialect } from "./connection-types.js";
import { EventStreamSocket } from "./event-stream.js";
import type { Verdict } from "./replay.js";
import { ReplayingSocket, replayQuery, type ReplayOptions } from "./replaying-socket.js";
import { bareToken } from "./token.js";
import { eventsUrl, socketUrl } from "./urls.js";
import type { ExtensionClientFrame, HistoryPoint } from "./wire/extensions.js";
import {
  isNotificationsEvent,
  parseNotificationsFrame,
  type NotificationsClientFrame,
  type NotificationsEvent,
  type NotificationsServerFrame,
} from "./wire/notifications.js";

/** Options of {@link NotificationsSocket}. */
export interface NotificationsOptions extends ReplayOptions {
  /** Default `/ws/notifications/`. */
  readonly path?: string;
}

function dialect(options: NotificationsOptions): Dialect<NotificationsServerFrame, NotificationsClientFrame> {
  const path = options.path ?? "/ws/notifications/";
  return {
    url: (token) => socketUrl(path, options.origin, replayQuery(token, options)),
    eventStream: (token) => new EventStreamSocket(eventsUrl(options.origin, options.isAcking === true ? { acks: "1" } : {}), bareToken(token)),
    authenticate: (token) => ({ type: "authenticate", token }),
    isHelloFirst: false,
    hasWelcome: false,
    isWelcome: () => false,
    parse: parseNotificationsFrame,
    pongOf: (frame) => (frame.type === "pong" ? frame.timestamp : null),
    ping: (stampMs) => ({ type: "ping", timestamp: new Date(stampMs).toISOString() }),
  };
}

/**
 * Receives what concerns a user. What was subscribed is subscribed again after every reconnect, and events that were
 * missed meanwhile are asked for, wherever the server gives positions: each event arrives once and in order.
 */
export class NotificationsSocket extends ReplayingSocket<
  NotificationsServerFrame,
  NotificationsEvent,
  NotificationsClientFrame
> {
  /** How many undo functions are still open, by channel. */
  private readonly wanted = new Map<string, number>();
  /** Implicit channels that were unsubscribed. */
  private readonly unwanted = new Set<string>();
  private isNarrowed = false;
  /** What {@link locate} asked for, as one text, until it is answered. */
  private located: string | null = null;

  constructor(options: NotificationsOptions) {
    super(dialect(options), options);
  }

  /**
   * Follows `channels` beside what a user gets anyway. With `since`, what came after that point is replayed first, in
   * channels that are not followed yet.
   * Returns its undo, which leaves the channels that nobody else in this page follows; what a user gets anyway goes on.
   */
  subscribe(channels: readonly string[], since?: HistoryPoint): () => void {
    const isNew = (channel: string): boolean => !this.wanted.has(channel);
    // What is followed already is not replayed: its events have been delivered.
    const replayed = since === undefined ? [] : channels.filter(isNew);
    for (const channel of channels) {
      this.wanted.set(channel, (this.wanted.get(channel) ?? 0) + 1);
      this.unwanted.delete(channel);
    }
    // Not open: restore() does it as soon as it is.
    if (since === undefined) {
      this.connection.send({ type: "subscribe", channels: [...channels] });
    } else {
      for (const channel of replayed) this.replay.setPoint(channel, since);
      this.askReplay(this.sinceFrames(replayed), replayed);
    }
    let isOver = false;
    return () => {
      if (isOver) return;
      isOver = true;
      this.leave(channels);
    };
  }

  /** Leaves `channels` whoever follows them, and those too that a user gets anyway, until they are subscribed again. */
  unsubscribe(channels: readonly string[]): void {
    for (const channel of channels) {
      this.wanted.delete(channel);
      this.replay.forget(channel);
      if (IMPLICIT.has(channel)) this.unwanted.add(channel);
    }
    this.connection.send({ type: "unsubscribe", channels: [...channels] });
  }

  /** Narrows to exactly `channels`: what a user would get anyway is left out too, but for alerts. */
  narrowTo(channels: readonly string[]): void {
    this.wanted.clear();
    this.unwanted.clear();
    for (const channel of channels) this.wanted.set(channel, 1);
    this.isNarrowed = true;
    this.forgetUnfollowed();
    this.connection.send({ type: "subscribe", channels: [...channels], mode: "replace" });
  }

  /** Fires for every published event, of any type. Returns its undo. */
  onEvent(listener: (event: NotificationsEvent) => void): () => void {
    const types = ["notification", "alert", "order_update", "material_update", "custom"] as const;
    const undos = types.map((type) => this.on(type, listener));
    return () => {
      for (const undo of undos) undo();
    };
  }

  protected override isEvent(frame: NotificationsServerFrame): frame is NotificationsEvent {
    return isNotificationsEvent(frame);
  }

  protected override judge(frame: NotificationsServerFrame): Verdict {
    if (frame.type === "resumed" || frame.type === "resume_failed") this.noteReplay(frame);
    if (frame.type === "subscription_success") {
      // A channel where nothing has happened yet is resumed from here; one that was left meanwhile is not.
      for (const [channel, { epoch, offset }] of Object.entries(frame.positions ?? {})) {
        if (this.isFollowed(channel)) this.replay.joined(channel, { epoch, seq: offset });
      }
      if (frame.channels.join() === this.located) {
        this.located = null;
        return "hidden";
      }
    }
    return super.judge(frame);
  }

  /**
   * Asks where the channels stand that the connection came with, alerts among them however it is narrowed: the server tells it only of those that are subscribed, and
   * what is published during a break in one that had told no event could not be asked for.
   */
  private locate(): void {
    const channels = [...IMPLICIT].filter((channel) => this.isFollowed(channel));
    // Before all else of this connection, so that the first such answer is the one to this.
    this.located = this.connection.send({ type: "subscribe", channels }) ? channels.join() : null;
  }

  /** After a (re)connect: everything that was followed before, each from where it was left. */
  protected override restore(): void {
    this.located = null;
    this.locate();
    const channels = [...this.wanted.keys()];
    // Implicit channels are chosen by name and replayed by `resume`; the others are joined where their point is told.
    const fresh = channels.filter((channel) => IMPLICIT.has(channel) || this.replay.point(channel) === undefined);
    // What was on its way when a channel was left has made it known again.
    this.forgetUnfollowed();
    if (this.isNarrowed) this.connection.send({ type: "subscribe", channels: fresh, mode: "replace" });
    else if (fresh.length > 0) this.connection.send({ type: "subscribe", channels: fresh });
    if (this.unwanted.size > 0) this.connection.send({ type: "unsubscribe", channels: [...this.unwanted] });
    const replayed = this.replay.channels();
    const left = replayed.filter((channel) => this.wanted.has(channel) && !IMPLICIT.has(channel));
    // A channel that nobody subscribed is one that every user has, and the connection comes with it.
    const own = replayed.filter((channel) => !left.includes(channel));
    this.askReplay([...this.sinceFrames(left), ...this.resumeFrames(own)], replayed);
  }

  /** A channel that is not followed is not resumed, and begins anew where it is subscribed again. */
  private forgetUnfollowed(): void {
    for (const channel of this.replay.channels()) if (!this.isFollowed(channel)) this.replay.forget(channel);
  }

  private isFollowed(channel: string): boolean {
    // Alerts and the user's own channel cannot be left.
    if (this.wanted.has(channel) || channel === "alerts" || isOwnChannel(channel)) return true;
    return IMPLICIT.has(channel) && !this.isNarrowed && !this.unwanted.has(channel);
  }

  /** One frame that subscribes `channels`, each from its point. */
  private sinceFrames(channels: readonly string[]): ExtensionClientFrame[] {
    const points = channels.flatMap((channel) => {
      const point = this.replay.point(channel);
      return point === undefined ? [] : [[channel, { epoch: point.epoch, offset: point.seq }] as const];
    });
    const [first] = points;
    if (first === undefined) return [];
    const since = points.length === 1 ? first[1] : Object.fromEntries(points);
    return [{ type: "subscribe", channels: [...channels], since }];
  }

  private leave(channels: readonly string[]): void {
    const left = channels.filter((channel) => {
      const count = (this.wanted.get(channel) ?? 0) - 1;
      if (count > 0) this.wanted.set(channel, count);
      else this.wanted.delete(channel);
      return count === 0 && (this.isNarrowed || !IMPLICIT.has(channel));
    });
    for (const channel of left) this.replay.forget(channel);
    if (left.length > 0) this.connection.send({ type: "unsubscribe", channels: left });
  }
}
