/** The live state of one dream's images: dialect D over a {@link Connection}. */

import { Connection } from "./connection.js";
import {
  ConnectionState,
  type ConnectionOptions,
  type ConnectionStatus,
  type Dialect,
  type IgnoredFrame,
} from "./connection-types.js";
import { Emitter } from "./emitter.js";
import { socketUrl } from "./urls.js";
import {
  parseDreamFrame,
  type DreamClientFrame,
  type DreamServerFrame,
  type ImageProgressFrame,
  type ImageStatus,
  type ImageUpdateFrame,
} from "./wire/dream.js";
import { sameId, type ErrorFrame, type Id } from "./wire/frame.js";

/** Options of {@link DreamImagesSocket}. */
export interface DreamImagesOptions extends ConnectionOptions {
  readonly dreamId: Id;
  /** The path that `POST /api/dreams/` answered as `images_status.websocket_url`; default: made from the id. */
  readonly path?: string;
  /** Ask for `image_progress` events too. Default false: only what the first protocol knew. */
  readonly hasProgress?: boolean;
}

function dialect(options: DreamImagesOptions): Dialect<DreamServerFrame, DreamClientFrame> {
  const path = options.path ?? `/ws/dream-images/${encodeURIComponent(String(options.dreamId))}/`;
  return {
    // The token goes into the first message, not into the URL: URLs end up in logs.
    url: () => socketUrl(path, options.origin, options.hasProgress === true ? { progress: "1" } : {}),
    hello: (token) => ({ type: "authenticate", token }),
    hasWelcome: true,
    isWelcome: (frame) => frame.type === "connection_established",
    parse: parseDreamFrame,
    ping: () => ({ type: "ping", timestamp: Date.now() }),
  };
}

/**
 * Follows one dream. The server sends the latest state on every (re)connect, so nothing has to be replayed; events that
 * are older than what was already seen are dropped here.
 */
export class DreamImagesSocket {
  private readonly connection: Connection<DreamServerFrame, DreamClientFrame>;
  private readonly updates = new Emitter<ImageUpdateFrame>();
  private readonly progresses = new Emitter<ImageProgressFrame>();
  private readonly errors = new Emitter<ErrorFrame>();
  private readonly ignored = new Emitter<IgnoredFrame>();
  private seen: ImageUpdateFrame | null = null;
  private isStatusWanted = false;

  constructor(private readonly options: DreamImagesOptions) {
    this.connection = new Connection(dialect(options), options);
    this.connection.onFrame((frame) => this.receive(frame));
    this.connection.onIgnored((frame) => this.ignored.emit(frame));
  }

  /** The connection's state and what belongs to it. */
  get status(): ConnectionStatus {
    return this.connection.status;
  }

  /** The newest state seen, `null` before the first. */
  get latest(): ImageUpdateFrame | null {
    return this.seen;
  }

  /** Starts; harmless when started already. */
  connect(): void {
    this.connection.connect();
  }

  /** Ends the connection for good; `connect()` may start it anew. */
  close(): void {
    this.connection.close();
  }

  /** Skips the current reconnect pause, unless the server asked for it. */
  reconnectNow(): void {
    this.connection.reconnectNow();
  }

  /** Hands a fresh token over in place, so that an expiring one does not cost the connection. */
  refreshToken(): Promise<boolean> {
    return this.connection.refreshToken();
  }

  /** Asks for the latest state, which then fires `onUpdate` even if nothing changed. `false` unless open. */
  requestStatus(): boolean {
    const isSent = this.connection.send({ type: "request_status", dream_id: this.options.dreamId });
    this.isStatusWanted ||= isSent;
    return isSent;
  }

  /** Fires at every change of the connection's state. Returns its undo. */
  onStatus(listener: (status: ConnectionStatus) => void): () => void {
    return this.connection.onStatus(listener);
  }

  /** Fires for every new state of the dream's images, in order of `version`, never twice for one. Returns its undo. */
  onUpdate(listener: (update: ImageUpdateFrame) => void): () => void {
    return this.updates.on(listener);
  }

  /** Fires as single pictures advance, only with `hasProgress`. Returns its undo. */
  onProgress(listener: (progress: ImageProgressFrame) => void): () => void {
    return this.progresses.on(listener);
  }

  /** Fires when the server refused something this client sent; the connection goes on. Returns its undo. */
  onError(listener: (error: ErrorFrame) => void): () => void {
    return this.errors.on(listener);
  }

  /** Fires for frames that were skipped: unknown, malformed, or stale. Returns its undo. */
  onIgnored(listener: (frame: IgnoredFrame) => void): () => void {
    return this.ignored.on(listener);
  }

  private receive(frame: DreamServerFrame): void {
    switch (frame.type) {
      case "ping":
        this.connection.send({ type: "pong", timestamp: frame.timestamp ?? null });
        break;
      case "image_update":
        this.receiveUpdate(frame);
        break;
      case "image_progress":
        if (sameId(frame.dream_id, this.options.dreamId)) this.progresses.emit(frame);
        break;
      case "error":
        this.errors.emit(frame);
        break;
      case "connection_established":
      case "pong":
        // The connection core has seen them; there is nothing more to tell.
        break;
    }
  }

  private receiveUpdate(frame: ImageUpdateFrame): void {
    const isOurs = sameId(frame.dream_id, this.options.dreamId);
    const isAnswer = this.isStatusWanted && isOurs && !isOlder(frame, this.seen);
    if (!isOurs || (!isNewer(frame, this.seen) && !isAnswer)) {
      this.ignored.emit({ because: "stale", frame });
      return;
    }
    this.isStatusWanted = false;
    this.seen = frame;
    this.updates.emit(frame);
  }
}

/** Later by version, or by time where the server sends no versions. */
function isNewer(frame: ImageUpdateFrame, seen: ImageUpdateFrame | null): boolean {
  if (seen === null) return true;
  if (isVersioned(frame) && isVersioned(seen)) return frame.version > seen.version;
  // A repeated state with the same time is a snapshot of what is already shown.
  return frame.timestamp > seen.timestamp || (frame.timestamp === seen.timestamp && frame.status !== seen.status);
}

function isOlder(frame: ImageUpdateFrame, seen: ImageUpdateFrame | null): boolean {
  if (seen === null) return false;
  if (isVersioned(frame) && isVersioned(seen)) return frame.version < seen.version;
  return frame.timestamp < seen.timestamp;
}

function isVersioned(frame: ImageUpdateFrame): frame is ImageUpdateFrame & { readonly version: number } {
  return typeof frame.version === "number";
}

/** True where nothing further will happen by itself: the page may stop following. */
export function isSettled(update: { readonly status: ImageStatus }): boolean {
  return update.status !== "processing" && update.status !== "delete_processing";
}

/** True where events can arrive right now. */
export function isLive(status: ConnectionStatus): boolean {
  return status.state === ConnectionState.Open;
}
