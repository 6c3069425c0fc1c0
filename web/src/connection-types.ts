/** The vocabulary of {@link Connection}: its states, its options, and what a dialect has to tell it. */

import type { BackoffOptions } from "./backoff.js";
import type { TokenSource } from "./token.js";

/**
 * Where a connection is. Every edge:
 *
 * ```text
 * idle --connect()--> connecting --socket open--> authenticating --welcome--> open
 * connecting | authenticating | open --lost--> waiting --delay over--> connecting
 * connecting | authenticating | open --token refused--> connecting (with a fresh token, once)
 * open (by an event stream) --a WebSocket opens beside it--> authenticating
 * any but idle --close(), or the server says that it is final--> closed --connect()--> connecting
 * ```
 */
export enum ConnectionState {
  /** Made, and `connect()` not yet called. */
  Idle = "idle",
  /** Getting a token and opening the socket. */
  Connecting = "connecting",
  /** The socket is open; the server has not yet accepted the session. */
  Authenticating = "authenticating",
  /** Events flow. */
  Open = "open",
  /** Lost; the next attempt is scheduled. */
  Waiting = "waiting",
  /** Ended: asked for, or pointless to try again. `connect()` starts anew. */
  Closed = "closed",
}

/** Why a connection is in {@link ConnectionState.Closed}. */
export enum ClosedBecause {
  /** `close()` was called. */
  Requested = "requested",
  /** The server closed with 1000: nothing more will come. */
  Ended = "ended",
  /** The server refuses: see the close code. */
  Refused = "refused",
  /** The token provider has no token, or the server refuses even a fresh one. */
  Unauthenticated = "unauthenticated",
}

/** How a socket ended. `code` 1006 with a reason of ours where it was this side that gave it up. */
export interface CloseInfo {
  readonly code: number;
  readonly reason: string;
}

/** The state with what belongs to it. */
export type ConnectionStatus =
  | { readonly state: ConnectionState.Idle }
  | { readonly state: ConnectionState.Connecting; readonly attempt: number }
  | { readonly state: ConnectionState.Authenticating; readonly attempt: number }
  | { readonly state: ConnectionState.Open }
  | {
      readonly state: ConnectionState.Waiting;
      /** Failed attempts since the connection last worked, at least 1. */
      readonly attempt: number;
      /** When the next attempt starts, in milliseconds of `Date.now()`. */
      readonly retryAtMs: number;
      /** True where the server asked for this pause: `reconnectNow()` then does nothing. */
      readonly isServerPause: boolean;
      readonly close: CloseInfo;
    }
  | { readonly state: ConnectionState.Closed; readonly because: ClosedBecause; readonly close: CloseInfo | null };

/** What of a WebSocket is used; the browser's own and the `ws` package's both fit. */
export interface SocketLike {
  onopen: ((event: never) => void) | null;
  onmessage: ((event: never) => void) | null;
  onerror: ((event: never) => void) | null;
  onclose: ((event: never) => void) | null;
  send(data: string): void;
  close(code?: number, reason?: string): void;
}

/** Makes a socket; default: the global `WebSocket`. */
export type SocketConstructor = new (url: string) => SocketLike;

/** What every socket of this library can be told. All durations are in milliseconds. */
export interface ConnectionOptions {
  /** A token, or where to get one. */
  readonly token: TokenSource;
  /** The server's origin, `https://host` or `wss://host`; default: the page's. */
  readonly origin?: string;
  /** Bounds of the reconnect delay. Default 1 s doubling to 30 s. */
  readonly backoff?: BackoffOptions;
  /** A socket that is not open by then is given up, and so is a session that is not accepted by then. Default 10,000. */
  readonly connectTimeoutMs?: number;
  /** Pause between pings; less than the server's own 30 s. Default 25,000. */
  readonly heartbeatMs?: number;
  /** A ping after which nothing at all arrives for so long means a dead connection. Default 10,000. */
  readonly heartbeatTimeoutMs?: number;
  /** Default: the global `WebSocket`. Pass one where the platform has none (Node.js before 22). */
  readonly webSocket?: SocketConstructor;
  /** False: never the event stream in place of a WebSocket, where the protocol has one. Default true. */
  readonly hasEventStream?: boolean;
  /** Bounds of the pauses after which a WebSocket is tried beside an event stream. Default 5 s doubling to 5 min. */
  readonly upgradeBackoff?: BackoffOptions;
  /** Source of the jitter, `[0, 1)`. Default `Math.random`. */
  readonly random?: () => number;
}

/** A frame that was not delivered as a typed message. Old clients must survive new servers, so it is no error. */
export interface IgnoredFrame {
  readonly because: "not_json" | "unknown_type" | "malformed" | "stale";
  /** The frame as it came: the parsed JSON, or the text where it was none. */
  readonly frame: unknown;
}

/** What a dialect's parser makes of one frame. */
export type Parsed<In> = { readonly ok: true; readonly frame: In } | { readonly ok: false; readonly ignored: IgnoredFrame };

/** What a protocol tells the connection core. */
export interface Dialect<In, Out> {
  /** The absolute `ws:` URL; carries the token where the protocol wants it there. */
  url(token: string): string;
  /** What to use where no WebSocket can be opened; protocols without it only try again. */
  eventStream?(token: string): SocketLike;
  /** Hands a token over: as the first frame where `isHelloFirst`, and later to replace one that is about to expire. */
  authenticate(token: string): Out;
  /** True where the first frame authenticates, false where the URL does. */
  readonly isHelloFirst: boolean;
  /** True for the frame by which the server accepts the session. */
  isWelcome(frame: In): boolean;
  /** False where the protocol has no welcome: the session then counts as open with the socket. */
  readonly hasWelcome: boolean;
  /** Reads one frame. Never throws. */
  parse(text: string): Parsed<In>;
  /** The application-level ping, whose timestamp is this time in milliseconds. */
  ping(stampMs: number): Out;
  /** The timestamp in the answer to a ping; `null` for every other frame. */
  pongOf(frame: In): number | string | null;
}
