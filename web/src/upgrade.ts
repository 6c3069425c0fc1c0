/**
 * From the event stream back to a WebSocket.
 *
 * An outage looks like a network that lets no WebSocket through, and many clients come out of one on event streams. While a
 * stream serves, a WebSocket is tried beside it again and again, with growing pauses; the first that opens takes over.
 */

import { backoffDelayMs, type BackoffOptions } from "./backoff.js";
import type { SocketLike } from "./connection-types.js";

/** Soon after an outage; and every few minutes where the network really lets none through, as browsers log each failure. */
export const DEFAULT_UPGRADE_BACKOFF: BackoffOptions = { baseMs: 5_000, capMs: 300_000 };

/** What an {@link Upgrade} needs of its connection. */
export interface UpgradeOptions {
  readonly backoff: BackoffOptions;
  readonly random: () => number;
  /** A socket that is not open by then is given up. */
  readonly timeoutMs: number;
  readonly fetchToken: () => Promise<string | null>;
  readonly makeSocket: (token: string) => SocketLike;
  /** Takes over the socket that has just opened; its handlers are the receiver's to set, at once. */
  readonly opened: (socket: SocketLike, token: string) => void;
}

/** Holds one timer or one socket at most, and nothing once stopped. */
export class Upgrade {
  private timer: ReturnType<typeof setTimeout> | undefined;
  private socket: SocketLike | null = null;
  /** Counts starts and stops; what belongs to an older one is ignored. */
  private run = 0;
  /** Attempts in vain since a WebSocket last opened, over all streams since. */
  private attempt = 0;

  constructor(private readonly options: UpgradeOptions) {}

  /** Tries until a socket opens, or it is stopped. */
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
    socket.onopen = () => {
      if (run !== this.run) return;
      // No longer this one's to close.
      this.socket = null;
      this.stop();
      this.options.opened(socket, token);
    };
  }
}
