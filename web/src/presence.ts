/** Who is there, chat and typing: dialect P over a self-healing connection. */

import type { Dialect } from "./connection-types.js";
import type { Verdict } from "./replay.js";
import { ReplayingSocket, replayQuery, type ReplayOptions } from "./replaying-socket.js";
import { socketUrl } from "./urls.js";
import type { Id } from "./wire/frame.js";
import {
  parsePresenceFrame,
  type PresenceClientFrame,
  type PresenceEvent,
  type PresenceServerFrame,
  type PresenceStatus,
} from "./wire/presence.js";

/** Options of {@link PresenceSocket}. */
export interface PresenceOptions extends ReplayOptions {
  /** Default `/api/v1/ws`. */
  readonly path?: string;
}

function dialect(options: PresenceOptions): Dialect<PresenceServerFrame, PresenceClientFrame> {
  return {
    url: (token) => socketUrl(options.path ?? "/api/v1/ws", options.origin, replayQuery(token, options)),
    authenticate: (token) => ({ type: "authenticate", token }),
    isHelloFirst: false,
    hasWelcome: true,
    isWelcome: (frame) => frame.type === "connected",
    parse: parsePresenceFrame,
    pongOf: (frame) => (frame.type === "pong" ? frame.timestamp : null),
    ping: (stampMs) => ({ type: "ping", timestamp: new Date(stampMs).toISOString() }),
  };
}

/** Tells who is there and carries messages between users; notifications and chat arrive once and in order. */
export class PresenceSocket extends ReplayingSocket<PresenceServerFrame, PresenceEvent, PresenceClientFrame> {
  private online: number | null = null;
  private own: PresenceClientFrame | null = null;

  constructor(options: PresenceOptions) {
    super(dialect(options), options);
  }

  /** Users online, this one included; `null` before the first connection. */
  get onlineCount(): number | null {
    return this.online;
  }

  /** Sends a message to another user, who gets it as `chat`. `false`, and nothing sent, unless open. */
  sendMessage(toUserId: Id, message: string): boolean {
    return this.connection.send({ type: "message", to_user_id: toUserId, message, timestamp: new Date().toISOString() });
  }

  /** Tells those who share `context` (such as `post_123`) whether this user is typing. `false` unless open. */
  sendTyping(isTyping: boolean, context: string): boolean {
    return this.connection.send({ type: "typing", data: { is_typing: isTyping, context } });
  }

  /** Says how present this user is, now and again after every reconnect; `offline` makes invisible. */
  setPresence(status: PresenceStatus, device: string): void {
    this.own = { type: "presence", status, data: { device } };
    this.connection.send(this.own);
  }

  protected override isEvent(frame: PresenceServerFrame): frame is PresenceEvent {
    return frame.type === "notification" || frame.type === "chat" || frame.type === "custom";
  }

  protected override judge(frame: PresenceServerFrame): Verdict {
    if (frame.type === "connected") this.online = frame.data.online_count;
    if (frame.type === "user_status" && this.online !== null) {
      this.online = Math.max(0, this.online + (frame.data.status === "online" ? 1 : -1));
    }
    if (frame.type === "resumed" || frame.type === "resume_failed") this.noteReplay(frame);
    return super.judge(frame);
  }

  protected override restore(): void {
    if (this.own !== null) this.connection.send(this.own);
    const channels = this.replay.channels();
    this.askReplay(this.resumeFrames(channels), channels);
  }
}
