/** What the sockets of all dialects have in common: a connection, and listeners by message type. */

import { Connection } from "./connection.js";
import type { ConnectionOptions, ConnectionStatus, Dialect, IgnoredFrame } from "./connection-types.js";
import { Emitter } from "./emitter.js";
import type { Verdict } from "./replay.js";

function isOfType<In extends { readonly type: string }, K extends In["type"]>(
  frame: In,
  type: K,
): frame is Extract<In, { readonly type: K }> {
  return frame.type === type;
}

/** A socket that delivers the frames of one dialect by their `type`. */
export abstract class ProtocolSocket<In extends { readonly type: string }, Out> {
  protected readonly connection: Connection<In, Out>;
  private readonly frames = new Emitter<In>();
  private readonly ignored = new Emitter<IgnoredFrame>();

  protected constructor(dialect: Dialect<In, Out>, options: ConnectionOptions) {
    this.connection = new Connection(dialect, options);
    this.connection.onIgnored((frame) => this.ignored.emit(frame));
    this.connection.onFrame((frame) => {
      const verdict = this.judge(frame);
      if (verdict === "deliver") this.deliver(frame);
      else if (verdict === "stale") this.ignored.emit({ because: "stale", frame });
    });
  }

  /**
   * Sees every frame before the listeners do, and says whether they get it. What is held is delivered by the subclass, what
   * is hidden by nobody.
   */
  protected abstract judge(frame: In): Verdict;

  /** Hands `frame` to the listeners of its type. */
  protected deliver(frame: In): void {
    this.frames.emit(frame);
  }

  /** The connection's state and what belongs to it. */
  get status(): ConnectionStatus {
    return this.connection.status;
  }

  /** Starts; harmless when started already. */
  connect(): void {
    this.connection.connect();
  }

  /** Ends the connection for good; `connect()` may start it anew. */
  close(): void {
    this.connection.close();
  }

  /** Fetches a fresh token and hands it over in place. `false` where not open, or no token came. */
  refreshToken(): Promise<boolean> {
    return this.connection.refreshToken();
  }

  /** Skips the current reconnect pause, unless the server asked for it. */
  reconnectNow(): void {
    this.connection.reconnectNow();
  }

  /** Fires at every change of the connection's state. Returns its undo. */
  onStatus(listener: (status: ConnectionStatus) => void): () => void {
    return this.connection.onStatus(listener);
  }

  /** Fires for every frame of `type`, but for those that repeat what was already delivered. Returns its undo. */
  on<K extends In["type"]>(type: K, listener: (frame: Extract<In, { readonly type: K }>) => void): () => void {
    return this.frames.on((frame) => {
      if (isOfType(frame, type)) listener(frame);
    });
  }

  /** Fires for frames that were skipped: unknown, malformed, or stale. Returns its undo. */
  onIgnored(listener: (frame: IgnoredFrame) => void): () => void {
    return this.ignored.on(listener);
  }
}
