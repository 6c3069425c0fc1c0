/** Pings at a steady pace, and finding out that nobody is there any more. */

type Timer = ReturnType<typeof setTimeout>;

/** What a heartbeat needs to be told. Durations are in milliseconds. */
export interface HeartbeatOptions {
  /** Pause between pings. */
  readonly intervalMs: number;
  /** A ping after which nothing at all arrives for so long means that the connection is dead. */
  readonly timeoutMs: number;
  readonly sendPing: () => void;
  /** Called once per {@link Heartbeat.start}, at the earliest `timeoutMs` after a ping. */
  readonly onDead: () => void;
}

/** Keeps one connection alive. */
export class Heartbeat {
  private pingTimer: Timer | undefined;
  private deadTimer: Timer | undefined;
  /** Pings that await their answer, oldest first, each with who waits for it. */
  private waiting: ((isAnswered: boolean) => void)[] = [];

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
    for (const tell of waiting) tell(false);
  }

  /** Something arrived, whatever it was: the connection lives. */
  heard(): void {
    clearTimeout(this.deadTimer);
    this.deadTimer = undefined;
  }

  /** A pong arrived. A server answers in order, so it belongs to the oldest ping. */
  answered(): void {
    this.waiting.shift()?.(true);
  }

  /** Pings at once; `tell` hears whether it was answered before the connection ended. */
  ping(tell: (isAnswered: boolean) => void = () => undefined): void {
    this.waiting.push(tell);
    this.options.sendPing();
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
