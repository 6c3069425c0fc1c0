/** Who is there, chat and typing: dialect P over a self-healing connection. */

import { ConnectionState, type ConnectionOptions, type Dialect } from "./connection-types.js";
import { HistoryPoints } from "./history-points.js";
import { ProtocolSocket } from "./protocol-socket.js";
import { bareToken } from "./token.js";
import { socketUrl } from "./urls.js";
import type { Id } from "./wire/frame.js";
import {
  parsePresenceFrame,
  type PresenceClientFrame,
  type PresenceServerFrame,
  type PresenceStatus,
} from "./wire/presence.js";

/** Options of {@link PresenceSocket}. */
export interface PresenceOptions extends ConnectionOptions {
  /** Default `/api/v1/ws`. */
  readonly path?: string;
}

function dialect(options: PresenceOptions): Dialect<PresenceServerFrame, PresenceClientFrame> {
  return {
    url: (token) => socketUrl(options.path ?? "/api/v1/ws", options.origin, { token: bareToken(token), positions: "1" }),
    authenticate: (token) => ({ type: "authenticate", token }),
    isHelloFirst: false,
    hasWelcome: true,
    isWelcome: (frame) => frame.type === "connected",
    parse: parsePresenceFrame,
    ping: () => ({ type: "ping", timestamp: new Date().toISOString() }),
  };
}

/** Tells who is there and carries messages between users. */
export class PresenceSocket extends ProtocolSocket<PresenceServerFrame, PresenceClientFrame> {
  private readonly points = new HistoryPoints();
  private online: number | null = null;
  private own: PresenceClientFrame | null = null;

  constructor(options: PresenceOptions) {
    super(dialect(options), options);
    this.onStatus(({ state }) => {
      if (state === ConnectionState.Open) this.restore();
    });
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

  protected override accept(frame: PresenceServerFrame): boolean {
    switch (frame.type) {
      case "connected":
        this.online = frame.data.online_count;
        return true;
      case "user_status":
        if (this.online !== null) this.online = Math.max(0, this.online + (frame.data.status === "online" ? 1 : -1));
        return true;
      case "notification":
      case "chat":
      case "custom":
        return this.points.see(frame);
      case "resumed":
      case "resume_failed":
        this.points.set(frame.channel, { epoch: frame.epoch, seq: frame.seq });
        return true;
      default:
        return true;
    }
  }

  private restore(): void {
    if (this.own !== null) this.connection.send(this.own);
    for (const channel of this.points.channels()) {
      const point = this.points.get(channel);
      if (point !== undefined) this.connection.send({ type: "resume", channel, ...point });
    }
  }
}
