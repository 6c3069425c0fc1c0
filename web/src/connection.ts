/**
 * One WebSocket that heals itself: connects, authenticates, keeps alive, and reconnects; knows no message of any dialect.
 *
 * Data owned: the current socket, at most one timer of each kind, the count of failed attempts. Lifetime: from
 * `connect()` to `close()`; a closed connection holds no timer and no listener on the page.
 */

import { backoffDelayMs, DEFAULT_BACKOFF, parseRetryAfterS } from "./backoff.js";
import { CloseAction, closeCode, RATE_LIMIT_PAUSE_S } from "./close-codes.js";
import {
  ClosedBecause,
  ConnectionState,
  type CloseInfo,
  type ConnectionOptions,
  type ConnectionStatus,
  type Dialect,
  type IgnoredFrame,
  type SocketLike,
} from "./connection-types.js";
import { Emitter } from "./emitter.js";
import { Heartbeat, HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS } from "./heartbeat.js";
import { fetchToken } from "./token.js";
import { CONNECT_TIMEOUT_MS, Transport } from "./transport.js";
import { onWake } from "./wake.js";

/** A self-healing WebSocket speaking the dialect it is given. */
export class Connection<In, Out> {
  private current: ConnectionStatus = { state: ConnectionState.Idle };
  private socket: SocketLike | null = null;
  /** Counts attempts ever started; what belongs to an older one (a slow token, a late close) is ignored. */
  private run = 0;
  /** Failed attempts since the connection last worked. */
  private attempt = 0;
  /** The next attempt needs a fresh token, or the current one already has it. */
  private needsFreshToken = false;
  private hasFreshToken = false;
  private phaseTimer: ReturnType<typeof setTimeout> | undefined;
  private retryAfterS: number | null = null;
  private readonly heartbeat: Heartbeat;
  private readonly transport: Transport<In, Out>;
  private stopWake: (() => void) | null = null;
  private readonly statuses = new Emitter<ConnectionStatus>();
  private readonly frames = new Emitter<In>();
  private readonly ignored = new Emitter<IgnoredFrame>();

  constructor(
    private readonly dialect: Dialect<In, Out>,
    private readonly options: ConnectionOptions,
  ) {
    this.transport = new Transport(dialect, options, (socket, token) => this.switchTo(socket, token));
    this.heartbeat = new Heartbeat({
      intervalMs: options.heartbeatMs ?? HEARTBEAT_MS,
      timeoutMs: options.heartbeatTimeoutMs ?? HEARTBEAT_TIMEOUT_MS,
      sendPing: (stampMs) => this.write(dialect.ping(stampMs)),
      onDead: () => this.lost({ code: 1006, reason: "heartbeat timeout" }),
    });
  }

  /** The state and what belongs to it. */
  get status(): ConnectionStatus {
    return this.current;
  }

  /** Fires at every change of state, after it took effect. Returns its undo. */
  onStatus(listener: (status: ConnectionStatus) => void): () => void {
    return this.statuses.on(listener);
  }

  /** Fires for every frame that the dialect understands, welcome and pong included. Returns its undo. */
  onFrame(listener: (frame: In) => void): () => void {
    return this.frames.on(listener);
  }

  /** Fires for every skipped frame, with the reason. Returns its undo. */
  onIgnored(listener: (frame: IgnoredFrame) => void): () => void {
    return this.ignored.on(listener);
  }

  /** Starts. Does nothing unless idle or closed, so that calling it twice opens no second socket. */
  connect(): void {
    const { state } = this.current;
    if (state !== ConnectionState.Idle && state !== ConnectionState.Closed) return;
    this.attempt = 0;
    this.needsFreshToken = false;
    this.hasFreshToken = false;
    this.stopWake ??= onWake(() => this.wake());
    this.begin();
  }

  /** Ends the connection for good, with code 1000. Harmless in every state. */
  close(): void {
    if (this.current.state === ConnectionState.Idle || this.current.state === ConnectionState.Closed) return;
    this.end(ClosedBecause.Requested, null);
  }

  /** Ends a pause early; does nothing in any other state, and nothing where the server asked for that pause. */
  reconnectNow(): void {
    if (this.current.state === ConnectionState.Waiting && this.retryAfterS === null) this.begin();
  }

  /** Sends `frame`. `false`, and nothing sent, unless the connection is open: there is no hidden queue to overflow. */
  send(frame: Out): boolean {
    return this.current.state === ConnectionState.Open && this.write(frame);
  }

  /**
   * Fetches a fresh token and hands it over in place, so that an expiring one does not cost the connection.
   * `false` where not open, or no token came.
   */
  async refreshToken(): Promise<boolean> {
    const run = this.run;
    const token = await fetchToken(this.options.token, { isRefresh: true });
    if (token === null || run !== this.run) return false;
    return this.send(this.dialect.authenticate(token));
  }

  /**
   * Sends a ping and calls `tell` with `true` once it is answered: as a server works in order, everything sent before is
   * then answered too. `false` where the connection is not open or breaks first.
   */
  roundTrip(tell: (isAnswered: boolean) => void): void {
    if (this.current.state === ConnectionState.Open) this.heartbeat.ping(tell);
    else tell(false);
  }

  private begin(): void {
    this.release();
    const run = ++this.run;
    this.retryAfterS = null;
    this.startPhaseTimer("connect timeout");
    this.become({ state: ConnectionState.Connecting, attempt: this.attempt });
    // A listener may have called close() just now.
    if (run === this.run) void this.open(run);
  }

  private async open(run: number): Promise<void> {
    const isRefresh = this.needsFreshToken;
    let token;
    try {
      token = await fetchToken(this.options.token, { isRefresh });
    } catch (error) {
      if (run === this.run) this.lost({ code: 1006, reason: `no token: ${String(error)}` });
      return;
    }
    if (run !== this.run) return;
    if (token === null) return this.end(ClosedBecause.Unauthenticated, null);
    this.needsFreshToken = false;
    this.hasFreshToken = isRefresh;
    try {
      this.listen(this.transport.make(token), run, token);
    } catch (error) {
      // The URL itself is refused: no later attempt can go better.
      this.end(ClosedBecause.Refused, { code: 1006, reason: String(error) });
    }
  }

  private listen(socket: SocketLike, run: number, token: string): void {
    this.socket = socket;
    socket.onopen = () => {
      if (run === this.run) this.opened(token);
    };
    socket.onmessage = (event: { readonly data: unknown }) => {
      if (run === this.run) this.received(event.data);
    };
    socket.onclose = (event: { readonly code: number; readonly reason: string }) => {
      if (run === this.run) this.lost({ code: event.code, reason: event.reason });
    };
    socket.onerror = () => undefined; // A close event always follows and says more.
  }

  private opened(token: string): void {
    this.transport.opened();
    const run = this.run;
    this.startPhaseTimer("not welcomed in time");
    this.become({ state: ConnectionState.Authenticating, attempt: this.attempt });
    if (run !== this.run) return;
    if (this.dialect.isHelloFirst) this.write(this.dialect.authenticate(token));
    if (this.dialect.hasWelcome) return;
    this.ready();
    // With no welcome, the answer to a ping is the proof that the server accepted us.
    if (run === this.run) this.heartbeat.ping();
  }

  private ready(): void {
    clearTimeout(this.phaseTimer);
    this.heartbeat.start();
    this.become({ state: ConnectionState.Open });
  }

  /** A WebSocket has answered beside the event stream. What the stream had not delivered is asked for anew, as after a break. */
  private switchTo(socket: SocketLike, token: string): void {
    this.release();
    const run = ++this.run;
    this.listen(socket, run, token);
    this.opened(token);
  }

  private received(data: unknown): void {
    // Anything that arrives proves that the connection lives.
    this.heartbeat.heard();
    this.transport.heard();
    const run = this.run;
    const parsed = typeof data === "string" ? this.dialect.parse(data) : null;
    if (parsed === null || !parsed.ok) {
      this.ignored.emit(parsed?.ignored ?? { because: "not_json", frame: data });
      return;
    }
    if (this.current.state === ConnectionState.Authenticating && this.dialect.isWelcome(parsed.frame)) this.ready();
    if (this.current.state === ConnectionState.Open) {
      this.attempt = 0;
      this.hasFreshToken = false;
    }
    this.heartbeat.answered(this.dialect.pongOf(parsed.frame));
    if (run === this.run) this.frames.emit(parsed.frame);
  }

  private lost(close: CloseInfo): void {
    const { action, name } = closeCode(close.code);
    // The server's word, which came through.
    if (close.code !== 1006) this.transport.heard();
    if (action === CloseAction.Stop) {
      return this.end(close.code === 1000 ? ClosedBecause.Ended : ClosedBecause.Refused, close);
    }
    if (action === CloseAction.RefreshToken) {
      // A fresh token that is refused too would be refused forever.
      if (this.hasFreshToken) return this.end(ClosedBecause.Unauthenticated, close);
      this.needsFreshToken = true;
      this.begin();
      return;
    }
    this.release();
    const run = ++this.run;
    this.retryAfterS = parseRetryAfterS(close.reason) ?? (name === "rate_limit" ? RATE_LIMIT_PAUSE_S : null);
    const { backoff = DEFAULT_BACKOFF, random = Math.random } = this.options;
    const delayMs = backoffDelayMs(this.attempt, backoff, this.retryAfterS, random);
    this.attempt += 1;
    this.phaseTimer = setTimeout(() => {
      if (run === this.run) this.begin();
    }, delayMs);
    this.become({
      state: ConnectionState.Waiting,
      attempt: this.attempt,
      retryAtMs: Date.now() + delayMs,
      isServerPause: this.retryAfterS !== null,
      close,
    });
  }

  private end(because: ClosedBecause, close: CloseInfo | null): void {
    this.release();
    this.run += 1;
    this.stopWake?.();
    this.stopWake = null;
    this.become({ state: ConnectionState.Closed, because, close });
  }

  /** Lets go of the socket and of every timer. */
  private release(): void {
    clearTimeout(this.phaseTimer);
    this.heartbeat.stop();
    this.transport.stopUpgrade();
    const { socket } = this;
    this.socket = null;
    if (socket === null) return;
    socket.onopen = null;
    socket.onmessage = null;
    socket.onclose = null;
    // onerror stays: closing a socket that is still connecting reports an error, which nobody must hear as uncaught.
    socket.close(1000);
  }

  private startPhaseTimer(reason: string): void {
    clearTimeout(this.phaseTimer);
    const run = this.run;
    this.phaseTimer = setTimeout(() => {
      if (run === this.run) this.lost({ code: 1006, reason });
    }, this.options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS);
  }

  /** The network came back or the page came to the front: look at once instead of at the next tick. */
  private wake(): void {
    if (this.current.state === ConnectionState.Open) this.heartbeat.ping();
    else this.reconnectNow();
  }

  private write(frame: Out): boolean {
    try {
      this.socket?.send(JSON.stringify(frame));
      return this.socket !== null;
    } catch {
      // A socket on its way out refuses to send; its close event decides what happens next.
      return false;
    }
  }

  private become(status: ConnectionStatus): void {
    this.current = status;
    this.statuses.emit(status);
  }
}
