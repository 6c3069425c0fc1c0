/** The live state of one dream's images: dialect D over a self-healing connection. */

import { ConnectionState, type ConnectionOptions, type ConnectionStatus, type Dialect } from "./connection-types.js";
import { ProtocolSocket } from "./protocol-socket.js";
import type { Verdict } from "./replay.js";
import { socketUrl } from "./urls.js";
import {
  parseDreamFrame,
  type DreamClientFrame,
  type DreamServerFrame,
  type ImageProgressFrame,
  type ImageStatus,
  type ImageUpdateFrame,
} from "./wire/dream.js";
import { sameId, wireId, type Id } from "./wire/frame.js";

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
    authenticate: (token) => ({ type: "authenticate", token }),
    isHelloFirst: true,
    hasWelcome: true,
    isWelcome: (frame) => frame.type === "connection_established",
    parse: parseDreamFrame,
    pongOf: (frame) => (frame.type === "pong" ? frame.timestamp : null),
    ping: (stampMs) => ({ type: "ping", timestamp: stampMs }),
  };
}

/**
 * Follows one dream. The server sends the latest state on every (re)connect, so nothing has to be replayed; events that
 * are older than what was already seen are dropped here.
 */
export class DreamImagesSocket extends ProtocolSocket<DreamServerFrame, DreamClientFrame> {
  private seen: ImageUpdateFrame | null = null;
  private isStatusWanted = false;

  constructor(private readonly options: DreamImagesOptions) {
    super(dialect(options), options);
  }

  /** The newest state seen, `null` before the first. */
  get latest(): ImageUpdateFrame | null {
    return this.seen;
  }

  /** Asks for the latest state, which then fires `onUpdate` even if nothing changed. `false` unless open. */
  requestStatus(): boolean {
    const isSent = this.connection.send({ type: "request_status", dream_id: wireId(this.options.dreamId) });
    this.isStatusWanted ||= isSent;
    return isSent;
  }

  /** Fires for every new state of the dream's images, in order of `version`, never twice for one. Returns its undo. */
  onUpdate(listener: (update: ImageUpdateFrame) => void): () => void {
    return this.on("image_update", listener);
  }

  /** Fires as single pictures advance, only with `hasProgress`. Returns its undo. */
  onProgress(listener: (progress: ImageProgressFrame) => void): () => void {
    return this.on("image_progress", listener);
  }

  protected override judge(frame: DreamServerFrame): Verdict {
    switch (frame.type) {
      case "ping":
        this.connection.send({ type: "pong", timestamp: frame.timestamp ?? null });
        return "deliver";
      case "image_update":
        return this.isNews(frame) ? "deliver" : "stale";
      case "image_progress":
        return sameId(frame.dream_id, this.options.dreamId) ? "deliver" : "stale";
      default:
        return "deliver";
    }
  }

  private isNews(frame: ImageUpdateFrame): boolean {
    if (!sameId(frame.dream_id, this.options.dreamId)) return false;
    const isAnswer = this.isStatusWanted && !isOlder(frame, this.seen);
    if (!isNewer(frame, this.seen) && !isAnswer) return false;
    this.isStatusWanted = false;
    this.seen = frame;
    return true;
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
