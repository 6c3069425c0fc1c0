/**
 * From the event stream back to a WebSocket.
 *
 * An outage looks like a network that lets no WebSocket through, and many clients come out of one on event streams. While a
 * stream serves, a WebSocket is tried beside it again and again, with growing pauses; the first on which a ping is answered
 * takes over. That it opens says little: some proxies accept every upgrade and then pass nothing on.
 */

import { backoffDelayMs, type BackoffOptions } from "./backoff.js";
import type { SocketLike } from "./connection-types.js";

/** Soon after an outage; and every few minutes where the network really lets none through, as browsers log each failure. */
export const DEFAULT_UPGRADE_BACKOFF: BackoffOptions = { baseMs: 5_000, capMs: 300_000 };

/** What an {@link Upgrade} needs of its connection. */
export interface UpgradeOptions {
  readonly backoff: BackoffOptions;
  readonly random: () => number;
  /** A socket that has not answered by then is given up. */
  readonly timeoutMs: number;
  readonly fetchToken: () => Promise<string | null>;
  readonly makeSocket: (token: string) => SocketLike;
  /** What a socket is asked once it is open. */
  readonly makePing: () => string;
  readonly isPong: (data: unknown) => boolean;
  /** Takes over the socket that has just answered; its handlers are the receiver's to set, at once. */
  readonly opened: (socket: SocketLike, token: string) => void;
}

/** Holds one timer or one socket at most, and nothing once stopped. */
export class Upgrade {
  private timer: ReturnType<typeof setTimeout> | undefined;
  private socket: SocketLike | null = null;
  /** Counts starts and stops; what belongs to an older one is ignored. */
  private run = 0;
  /** Attempts in vain since a WebSocket last came through, over all streams since. */
  private attempt = 0;

  constructor(private readonly options: UpgradeOptions) {}

  /** Tries until a socket answers, or it is stopped. */
  start(): void {
    this.stop();
    const { backoff, random } = this.options;
    const { run } = this;
    this.timer = setTimeout(() => void this.try(run), backoffDelayMs(this.attempt, backoff, null, random));
  }

  /** Harmless when not started. */
  stop(): void {
    this.run += 1;
    clearTimeout(this.timer);
    const { socket } = this;
    this.socket = null;
    if (socket === null) return;
    socket.onopen = null;
    socket.onmessage = null;
    socket.onclose = null;
    socket.close(1000);
  }

  /** A WebSocket came through: the next stream is one of another outage. */
  reset(): void {
    this.attempt = 0;
  }

  private async try(run: number): Promise<void> {
    this.attempt += 1;
    let token: string | null;
    try {
      token = await this.options.fetchToken();
    } catch {
      token = null;
    }
    if (run !== this.run) return;
    const again = (): void => {
      if (run === this.run) this.start();
    };
    // Without a token the stream will end soon enough, and its connection says so.
    if (token === null) return again();
    const socket = this.options.makeSocket(token);
    this.socket = socket;
    this.timer = setTimeout(again, this.options.timeoutMs);
    socket.onerror = () => undefined; // A close event always follows.
    socket.onclose = again;
    socket.onopen = () => socket.send(this.options.makePing());
    // Events that come before are dropped: the stream has them too, and what it has not delivered is asked for anew.
    socket.onmessage = ({ data }: { readonly data: unknown }) => {
      if (run !== this.run || !this.options.isPong(data)) return;
      // No longer this one's to close.
      this.socket = null;
      this.stop();
      this.options.opened(socket, token);
    };
  }
}
