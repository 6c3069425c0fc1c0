/** Pings at a steady pace, and finding out that nobody is there any more. */

/** Pause between pings where nothing else is asked for. */
export const HEARTBEAT_MS = 25_000;
/** How long a ping may go unanswered where nothing else is asked for. */
export const HEARTBEAT_TIMEOUT_MS = 10_000;

type Timer = ReturnType<typeof setTimeout>;

/** What a heartbeat needs to be told. Durations are in milliseconds. */
export interface HeartbeatOptions {
  /** Pause between pings. */
  readonly intervalMs: number;
  /** A ping after which nothing at all arrives for so long means that the connection is dead. */
  readonly timeoutMs: number;
  /** `stampMs` goes with the ping and comes back with its answer: the time, or a little later, and never the same twice. */
  readonly sendPing: (stampMs: number) => void;
  /** Called once per {@link Heartbeat.start}, at the earliest `timeoutMs` after a ping. */
  readonly onDead: () => void;
}

/** Keeps one connection alive. */
export class Heartbeat {
  private pingTimer: Timer | undefined;
  private deadTimer: Timer | undefined;
  private lastStampMs = 0;
  /** Pings that await their answer, oldest first, each with who waits for it. */
  private waiting: { readonly stampMs: number; readonly tell: (isAnswered: boolean) => void }[] = [];

  constructor(private readonly options: HeartbeatOptions) {}

  /** Begins to ping, the first time after one interval. */
  start(): void {
    this.stop();
    this.schedule();
  }

  /** Ends it; whoever waits for an answer hears that there is none. Harmless when not started. */
  stop(): void {
    clearTimeout(this.pingTimer);
    this.heard();
    const { waiting } = this;
    this.waiting = [];
    for (const { tell } of waiting) tell(false);
  }

  /** Something arrived, whatever it was: the connection lives. */
  heard(): void {
    clearTimeout(this.deadTimer);
    this.deadTimer = undefined;
  }

  /**
   * A pong with this timestamp arrived; `null`: no pong. A server answers in order, so older pings get no answer of their own any
   * more: those that come too fast are refused. One without a ping's stamp, as from a server that tells its own time, is for the oldest.
   */
  answered(timestamp: number | string | null): void {
    if (timestamp === null) return;
    const stampMs = typeof timestamp === "string" ? Date.parse(timestamp) : timestamp;
    const at = this.waiting.findIndex((ping) => ping.stampMs === stampMs);
    for (const { tell } of this.waiting.splice(0, Math.max(at, 0) + 1)) tell(true);
  }

  /** Pings at once; `tell` hears whether it was answered before the connection ended. */
  ping(tell: (isAnswered: boolean) => void = () => undefined): void {
    this.lastStampMs = Math.max(Date.now(), this.lastStampMs + 1);
    this.waiting.push({ stampMs: this.lastStampMs, tell });
    this.options.sendPing(this.lastStampMs);
    // One clock for unanswered pings: a second ping must not give a dead connection more time.
    this.deadTimer ??= setTimeout(() => this.options.onDead(), this.options.timeoutMs);
  }

  private schedule(): void {
    this.pingTimer = setTimeout(() => {
      this.schedule();
      this.ping();
    }, this.options.intervalMs);
  }
}
