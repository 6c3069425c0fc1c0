/** What the sockets with channels have in common: they resume after a break, and acknowledge where that is wanted. */

import { isOwnChannel } from "./channels.js";
import { ConnectionState, type ConnectionOptions, type Dialect } from "./connection-types.js";
import { ProtocolSocket } from "./protocol-socket.js";
import { Replay, type Verdict } from "./replay.js";
import { bareToken } from "./token.js";
import type { ExtensionClientFrame, HistoryPoint, ResumedFrame, ResumeFailedFrame } from "./wire/extensions.js";
import type { Positioned } from "./wire/frame.js";

/** How long acknowledgements gather. */
const ACK_DELAY_MS = 100;

/** Options of the sockets with channels. */
export interface ReplayOptions extends ConnectionOptions {
  /**
   * Acknowledge every event of the user's inbox once its listeners have run: one that was not is sent again on the next connection.
   * Default false.
   */
  readonly isAcking?: boolean;
}

/**
 * The query of such a socket's URL. Positions are what replay after a break starts from, and acknowledgements have to be
 * announced before the first event; a server that knows neither ignores both.
 */
export function replayQuery(token: string, options: ReplayOptions): { readonly [name: string]: string } {
  return { token: bareToken(token), positions: "1", ...(options.isAcking === true && { acks: "1" }) };
}

/** A socket whose events may have positions. */
export abstract class ReplayingSocket<
  In extends { readonly type: string },
  Event extends In & Positioned,
  Out,
> extends ProtocolSocket<In | ResumeFailedFrame, Out | ExtensionClientFrame> {
  protected readonly replay = new Replay<Event>();
  private readonly isAcking: boolean;
  /** The last event heard of each channel that is acknowledged. */
  private readonly unacked = new Map<string | undefined, number>();

  protected constructor(dialect: Dialect<In | ResumeFailedFrame, Out | ExtensionClientFrame>, options: ReplayOptions) {
    super(dialect, options);
    this.isAcking = options.isAcking === true;
    // Registered here, and so before every listener of the page: they find the channels restored.
    this.onStatus(({ state }) => {
      if (state === ConnectionState.Open) this.restore();
      else this.replay.abandon();
    });
  }

  /** Asks for everything again that was followed before the break. */
  protected abstract restore(): void;

  /** True for what was published, false for answers to this client. */
  protected abstract isEvent(frame: In | ResumeFailedFrame): frame is Event;

  /**
   * Asks for what came after `point` in a channel that this connection has, default the user's own: the missed events arrive as if live,
   * after a `resumed` or `resume_failed`, those too that were delivered before. `false` unless open.
   */
  resume(point: HistoryPoint, channel: string | undefined = this.ownChannel(point)): boolean {
    if (this.status.state !== ConnectionState.Open) return false;
    const { epoch, seq } = point;
    // Only the server knows the name of a channel of which it has told nothing yet.
    if (channel === undefined) return this.connection.send({ type: "resume", epoch, seq });
    this.replay.rewind(channel, point);
    return this.askReplay([{ type: "resume", channel, epoch, seq }], [channel]);
  }

  /** The user's own channel, as far as its history is the one of `point`. */
  private ownChannel({ epoch }: HistoryPoint): string | undefined {
    return this.replay.channels().find((channel) => isOwnChannel(channel) && this.replay.point(channel)?.epoch === epoch);
  }

  /** Acknowledges everything up to `seq`. `false` unless open. */
  ack(seq: number, channel?: string): boolean {
    return this.connection.send({ type: "ack", ...(channel !== undefined && { channel }), seq });
  }

  /** Asks for the newest events of `channel`, which arrive as one `history` frame. `false` unless open. */
  requestHistory(channel: string, limit: number): boolean {
    return this.connection.send({ type: "history", channel, limit });
  }

  /**
   * Sends `frames`, by which `channels` are replayed, and lets their new events wait until that is over: one ping after
   * them all, for servers limit the rate of messages. `false` unless open.
   */
  protected askReplay(frames: readonly ExtensionClientFrame[], channels: readonly string[]): boolean {
    for (const frame of frames) if (!this.connection.send(frame)) return false;
    if (channels.length === 0) return true;
    for (const channel of channels) this.replay.begin(channel);
    this.connection.roundTrip((isAnswered) => {
      // A connection that broke has abandoned the replay, and the next one may have begun another.
      if (!isAnswered) return;
      for (const channel of channels) for (const event of this.replay.finish(channel)) this.deliver(event);
    });
    return true;
  }

  /** The frames that resume those of `channels` that have a point. */
  protected resumeFrames(channels: readonly string[]): ExtensionClientFrame[] {
    return channels.flatMap((channel) => {
      const point = this.replay.point(channel);
      return point === undefined ? [] : [{ type: "resume", channel, ...point } as const];
    });
  }

  protected override judge(frame: In | ResumeFailedFrame): Verdict {
    if (!this.isEvent(frame)) return "deliver";
    const verdict = this.replay.judge(frame);
    // Its acknowledgement was lost, or the event would not come again.
    if (verdict === "stale") this.acknowledge(frame);
    if (verdict === "held" && frame.channel !== undefined) this.giveUpIfFull(frame.channel);
    return verdict;
  }

  /** Whoever listens for `resume_failed` loads the state anew, as where the server has lost what was missed. */
  private giveUpIfFull(channel: string): void {
    const givenUp = this.replay.giveUpIfFull(channel);
    if (givenUp === null) return;
    this.deliver(givenUp.failure);
    for (const event of givenUp.events) this.deliver(event);
  }

  protected override deliver(frame: In | ResumeFailedFrame): void {
    super.deliver(frame);
    if (this.isEvent(frame)) this.acknowledge(frame);
  }

  /** To be called for the answers to a replay. */
  protected noteReplay(frame: ResumedFrame | ResumeFailedFrame): void {
    if (frame.type === "resumed") this.replay.resumed(frame);
    else this.replay.failed(frame);
  }

  /** Notes what has been heard of the inbox, and tells it a moment later: servers limit the rate of messages. */
  private acknowledge({ seq, channel }: Event): void {
    // No other channel waits for acknowledgements.
    const isInbox = channel === undefined || isOwnChannel(channel);
    if (!this.isAcking || seq === undefined || !isInbox) return;
    if (this.unacked.size === 0) setTimeout(() => this.flushAcks(), ACK_DELAY_MS);
    this.unacked.set(channel, seq);
  }

  private flushAcks(): void {
    for (const [channel, seq] of this.unacked) this.ack(seq, channel);
    this.unacked.clear();
  }
}
