/** What the next connection is made of: a WebSocket, or the event stream where no WebSocket comes through. */

import type { ConnectionOptions, Dialect, SocketLike } from "./connection-types.js";
import { fetchToken } from "./token.js";
import { DEFAULT_UPGRADE_BACKOFF, Upgrade } from "./upgrade.js";

/** How long a socket may take to open. */
export const CONNECT_TIMEOUT_MS = 10_000;

/** So many WebSockets in a row that brought nothing at all make the event stream worth a try. */
const MUTE_BEFORE_STREAM = 2;

/** Makes the sockets of one connection, one after the other. */
export class Transport<In, Out> {
  /** WebSockets in a row on which nothing came, be it that a proxy lets none through, or accepts them and passes nothing on. */
  private mute = 0;
  private isStream = false;
  private readonly upgrade: Upgrade;

  constructor(
    private readonly dialect: Dialect<In, Out>,
    private readonly options: ConnectionOptions,
    /** Takes over a WebSocket that has answered beside the event stream; its handlers are to be set at once. */
    switchTo: (socket: SocketLike, token: string) => void,
  ) {
    this.upgrade = new Upgrade({
      backoff: options.upgradeBackoff ?? DEFAULT_UPGRADE_BACKOFF,
      random: options.random ?? Math.random,
      timeoutMs: options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS,
      fetchToken: () => fetchToken(options.token, { isRefresh: false }),
      makeSocket: (token) => this.makeWebSocket(token),
      makePing: () => JSON.stringify(dialect.ping(Date.now())),
      isPong: (data) => this.isPong(data),
      opened: (socket, token) => {
        this.isStream = false;
        switchTo(socket, token);
      },
    });
  }

  /** The next socket. Throws where its URL is refused, or the platform has none. */
  make(token: string): SocketLike {
    this.isStream = false;
    if (this.mute >= MUTE_BEFORE_STREAM && this.dialect.eventStream && this.options.hasEventStream !== false) {
      // Whatever becomes of the stream, a WebSocket is tried next: the network may have changed.
      this.mute = MUTE_BEFORE_STREAM - 1;
      this.isStream = true;
      return this.dialect.eventStream(token);
    }
    const socket = this.makeWebSocket(token);
    this.mute += 1;
    return socket;
  }

  private makeWebSocket(token: string): SocketLike {
    const { webSocket = globalThis.WebSocket as typeof globalThis.WebSocket | undefined } = this.options;
    if (webSocket === undefined) throw new TypeError("this platform has no WebSocket: pass the webSocket option");
    return new webSocket(this.dialect.url(token));
  }

  /** The last one that was made is open. */
  opened(): void {
    if (this.isStream) this.upgrade.start();
  }

  /** Something came on the last one that was made. */
  heard(): void {
    if (this.isStream) return;
    this.mute = 0;
    this.upgrade.reset();
  }

  private isPong(data: unknown): boolean {
    const parsed = typeof data === "string" ? this.dialect.parse(data) : null;
    return parsed?.ok === true && this.dialect.pongOf(parsed.frame) !== null;
  }

  /** Looks for no WebSocket any more: what it was to take the place of is over. */
  stopUpgrade(): void {
    this.upgrade.stop();
  }
}
