/** Notifications, alerts, orders, materials and custom channels: dialect N over a self-healing connection. */

import { ConnectionState, type ConnectionOptions, type Dialect } from "./connection-types.js";
import { HistoryPoints } from "./history-points.js";
import { ProtocolSocket } from "./protocol-socket.js";
import { bareToken } from "./token.js";
import { socketUrl } from "./urls.js";
import type { HistoryPoint } from "./wire/extensions.js";
import {
  isNotificationsEvent,
  parseNotificationsFrame,
  type NotificationsClientFrame,
  type NotificationsEvent,
  type NotificationsServerFrame,
} from "./wire/notifications.js";

/** Options of {@link NotificationsSocket}. */
export interface NotificationsOptions extends ConnectionOptions {
  /** Default `/ws/notifications/`. */
  readonly path?: string;
  /**
   * Acknowledge every stored event once its listeners have run: one that was not is sent again on the next connection.
   * Default false.
   */
  readonly isAcking?: boolean;
}

function dialect(options: NotificationsOptions): Dialect<NotificationsServerFrame, NotificationsClientFrame> {
  const path = options.path ?? "/ws/notifications/";
  return {
    // Positions are what replay after a break starts from; a server that has none ignores the wish.
    url: (token) => socketUrl(path, options.origin, { token: bareToken(token), positions: "1" }),
    authenticate: (token) => ({ type: "authenticate", token }),
    isHelloFirst: false,
    hasWelcome: false,
    isWelcome: () => false,
    parse: parseNotificationsFrame,
    ping: () => ({ type: "ping" }),
  };
}

/**
 * Receives what concerns a user. What was subscribed is subscribed again after every reconnect, and events that were
 * missed meanwhile are asked for, wherever the server gives positions.
 */
export class NotificationsSocket extends ProtocolSocket<NotificationsServerFrame, NotificationsClientFrame> {
  /** How many undo functions are still open, by channel. */
  private readonly wanted = new Map<string, number>();
  private readonly points = new HistoryPoints();
  private isNarrowed = false;

  constructor(private readonly options: NotificationsOptions) {
    super(dialect(options), options);
    this.onStatus(({ state }) => {
      if (state === ConnectionState.Open) this.restore();
    });
    if (options.isAcking === true) this.acknowledgeAll();
  }

  /**
   * Follows `channels` beside what a user gets anyway. With `since`, what came after that point is replayed first.
   * Returns its undo, which leaves the channels that nobody else in this page follows.
   */
  subscribe(channels: readonly string[], since?: HistoryPoint): () => void {
    for (const channel of channels) {
      this.wanted.set(channel, (this.wanted.get(channel) ?? 0) + 1);
      if (since !== undefined) this.points.set(channel, since);
    }
    // Not open: restore() does it as soon as it is.
    this.connection.send(subscribeFrame(channels, since));
    let isOver = false;
    return () => {
      if (isOver) return;
      isOver = true;
      this.leave(channels);
    };
  }

  /** Narrows to exactly `channels`: what a user would get anyway is left out too, but for alerts. */
  narrowTo(channels: readonly string[]): void {
    this.wanted.clear();
    for (const channel of channels) this.wanted.set(channel, 1);
    this.isNarrowed = true;
    this.connection.send({ type: "subscribe", channels: [...channels], mode: "replace" });
  }

  /** Asks for what came after `point`; the events arrive as if live, then `resumed` or `resume_failed`. `false` unless open. */
  resume(point: HistoryPoint, channel?: string): boolean {
    const { epoch, seq } = point;
    return this.connection.send({ type: "resume", ...(channel !== undefined && { channel }), epoch, seq });
  }

  /** Acknowledges everything up to `seq`. `false` unless open. */
  ack(seq: number, channel?: string): boolean {
    return this.connection.send({ type: "ack", ...(channel !== undefined && { channel }), seq });
  }

  /** Asks for the newest events of `channel`, which arrive as one `history` frame. `false` unless open. */
  requestHistory(channel: string, limit: number): boolean {
    return this.connection.send({ type: "history", channel, limit });
  }

  /** Fires for every published event, of any type. Returns its undo. */
  onEvent(listener: (event: NotificationsEvent) => void): () => void {
    const types = ["notification", "alert", "order_update", "material_update", "custom"] as const;
    const undos = types.map((type) => this.on(type, listener));
    return () => {
      for (const undo of undos) undo();
    };
  }

  protected override accept(frame: NotificationsServerFrame): boolean {
    if (isNotificationsEvent(frame)) {
      const isNew = this.points.see(frame);
      // The acknowledgement was lost, or the event would not come again.
      if (!isNew && this.options.isAcking === true) this.acknowledge(frame);
      return isNew;
    }
    if (frame.type === "resumed" || frame.type === "resume_failed") {
      this.points.set(frame.channel, { epoch: frame.epoch, seq: frame.seq });
    }
    return true;
  }

  private leave(channels: readonly string[]): void {
    const left = channels.filter((channel) => {
      const count = (this.wanted.get(channel) ?? 0) - 1;
      if (count > 0) this.wanted.set(channel, count);
      else this.wanted.delete(channel);
      return count === 0;
    });
    for (const channel of left) this.points.delete(channel);
    if (left.length > 0) this.connection.send({ type: "unsubscribe", channels: left });
  }

  /** After a (re)connect: everything that was followed before, each from where it was left. */
  private restore(): void {
    const channels = [...this.wanted.keys()];
    if (this.isNarrowed) this.connection.send({ type: "subscribe", channels, mode: "replace" });
    const fresh = channels.filter((channel) => this.points.get(channel) === undefined);
    if (fresh.length > 0 && !this.isNarrowed) this.connection.send(subscribeFrame(fresh));
    for (const channel of this.points.channels()) {
      const point = this.points.get(channel);
      if (point === undefined) continue;
      if (this.wanted.has(channel)) this.connection.send(subscribeFrame([channel], point));
      // A channel that nobody subscribed is one that every user has.
      else this.resume(point, channel);
    }
  }

  private acknowledgeAll(): void {
    // Registered first, yet run last: other listeners of the same frame must have had it.
    this.onEvent((event) => queueMicrotask(() => this.acknowledge(event)));
  }

  private acknowledge({ seq, channel }: NotificationsEvent): void {
    if (seq !== undefined) this.ack(seq, channel);
  }
}

function subscribeFrame(channels: readonly string[], since?: HistoryPoint): NotificationsClientFrame {
  const frame = { type: "subscribe", channels: [...channels] } as const;
  return since === undefined ? frame : { ...frame, since: { epoch: since.epoch, offset: since.seq } };
}
