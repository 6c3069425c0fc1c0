/** What the next connection is made of: a WebSocket, or the event stream where no WebSocket comes through. */

import type { ConnectionOptions, Dialect, SocketLike } from "./connection-types.js";

/** So many WebSockets in a row that did not even open make the event stream worth a try. */
const UNOPENED_BEFORE_STREAM = 2;

/** Makes the sockets of one connection, one after the other. */
export class Transport<In, Out> {
  /** WebSockets in a row that were never opened, which a proxy that lets none through looks like. */
  private unopened = 0;
  private isStream = false;

  constructor(
    private readonly dialect: Dialect<In, Out>,
    private readonly options: ConnectionOptions,
  ) {}

  /** The next socket. Throws where its URL is refused, or the platform has none. */
  make(token: string): SocketLike {
    const { webSocket = globalThis.WebSocket as typeof globalThis.WebSocket | undefined, hasEventStream } = this.options;
    this.isStream = false;
    if (this.unopened >= UNOPENED_BEFORE_STREAM && this.dialect.eventStream && hasEventStream !== false) {
      // Whatever becomes of the stream, a WebSocket is tried next: the network may have changed.
      this.unopened = UNOPENED_BEFORE_STREAM - 1;
      this.isStream = true;
      return this.dialect.eventStream(token);
    }
    if (webSocket === undefined) throw new TypeError("this platform has no WebSocket: pass the webSocket option");
    this.unopened += 1;
    return new webSocket(this.dialect.url(token));
  }

  /** The last one that was made is open. */
  opened(): void {
    if (!this.isStream) this.unopened = 0;
  }
}
