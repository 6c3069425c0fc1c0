/**
 * What any dialect may add to the first protocols: channels, replay, acknowledgements, history.
 * A client that sends none of these sees none of these.
 */

import { isArrayOf, isMissingOr, isNumber, isObject, isString, type JsonObject } from "../json.js";
import { hasPosition, type FrameChecks, type Positioned } from "./frame.js";

/** A point in a channel's history: everything up to and including `seq` of this `epoch` has been seen. */
export interface HistoryPoint {
  readonly epoch: string;
  readonly seq: number;
}

/** Answers `subscribe`: these channels are now followed. */
export interface SubscriptionSuccessFrame {
  readonly type: "subscription_success";
  readonly channels: readonly string[];
  /** Channels that were refused, where there are any. */
  readonly rejected?: readonly { readonly channel: string; readonly reason: string }[] | null;
  /** Where each of them stood when it was joined, for clients that resume: told on connections with positions. */
  readonly positions?: { readonly [channel: string]: SincePoint } | null;
}

/** Answers a token that was handed over in place. */
export interface AuthenticatedFrame {
  readonly type: "authenticated";
  /** Unix seconds. */
  readonly expires_at?: number | null;
}

/** Answers `unsubscribe`. */
export interface UnsubscribedFrame {
  readonly type: "unsubscribed";
  readonly channels: readonly string[];
}

/** Replay is complete: what follows is live, without gap or duplicate. */
export interface ResumedFrame {
  readonly type: "resumed";
  readonly channel: string;
  readonly epoch: string;
  /** The newest event now known. */
  readonly seq: number;
  /** Events that were replayed. */
  readonly recovered: number;
}

/** Some of the missed events will not come: read the state anew; live events go on from here. */
export interface ResumeFailedFrame {
  readonly type: "resume_failed";
  readonly channel: string;
  readonly epoch: string;
  readonly seq: number;
  /** A stable word, such as `history_lost`; `overflow` where this client gave the replay up, as too much came meanwhile. */
  readonly reason: string;
}

/** An event under a name that the library does not know, as published on a channel by an application. */
export interface CustomEventFrame extends Positioned {
  readonly type: "custom";
  /** The `type` that it was published with. */
  readonly name: string;
  readonly data: unknown;
  /** When it was published over HTTP or by the operator's program, ISO 8601 in UTC. */
  readonly timestamp?: string;
}

/** Answers `history`: the newest events of a channel, oldest first. */
export interface HistoryFrame<Event> {
  readonly type: "history";
  readonly channel: string;
  readonly epoch: string;
  readonly seq: number;
  readonly events: readonly Event[];
}

/** The server's frames of the extensions, but for `history`, whose events are of the dialect. */
export type ExtensionServerFrame =
  | SubscriptionSuccessFrame
  | UnsubscribedFrame
  | ResumedFrame
  | ResumeFailedFrame
  | AuthenticatedFrame;

/** A {@link HistoryPoint} as `subscribe` writes it. */
export interface SincePoint {
  readonly epoch: string;
  readonly offset: number;
}

/** What a client may send. */
export type ExtensionClientFrame =
  | { readonly type: "authenticate"; readonly token: string }
  | {
      readonly type: "subscribe";
      readonly channels: readonly string[];
      /** `replace` narrows to exactly these; absent: in addition. */
      readonly mode?: "replace";
      /** Replay what came after this point first, or, for several channels, after the point of each. */
      readonly since?: SincePoint | { readonly [channel: string]: SincePoint };
    }
  | { readonly type: "unsubscribe"; readonly channels: readonly string[] }
  | { readonly type: "resume"; readonly channel?: string; readonly epoch: string; readonly seq: number }
  | { readonly type: "ack"; readonly channel?: string; readonly seq: number }
  | { readonly type: "history"; readonly channel: string; readonly limit: number };

function isRejection(value: unknown): value is { readonly channel: string; readonly reason: string } {
  return isObject(value) && isString(value["channel"]) && isString(value["reason"]);
}

function isSincePoint(value: unknown): value is SincePoint {
  return isObject(value) && isString(value["epoch"]) && isNumber(value["offset"]);
}

function isPositions(value: unknown): value is { readonly [channel: string]: SincePoint } {
  return isObject(value) && Object.values(value).every(isSincePoint);
}

const isPoint = (frame: JsonObject): boolean =>
  isString(frame["channel"]) && isString(frame["epoch"]) && isNumber(frame["seq"]);

/** Checks for the extension frames, to be spread into a dialect's table. */
export const EXTENSION_CHECKS: FrameChecks<ExtensionServerFrame | HistoryFrame<unknown>> = {
  subscription_success: (frame) =>
    isArrayOf(frame["channels"], isString) &&
    isMissingOr(frame["rejected"], (list) => isArrayOf(list, isRejection)) &&
    isMissingOr(frame["positions"], isPositions),
  unsubscribed: (frame) => isArrayOf(frame["channels"], isString),
  resumed: (frame) => isPoint(frame) && isNumber(frame["recovered"]),
  resume_failed: (frame) => isPoint(frame) && isString(frame["reason"]),
  authenticated: (frame) => isMissingOr(frame["expires_at"], isNumber),
  history: (frame) => isPoint(frame) && Array.isArray(frame["events"]),
};

/** An unknown type that carries `data` is somebody's own event; anything else is not understood. */
export function customEvent(frame: JsonObject): CustomEventFrame | null {
  if (!("data" in frame) || !isString(frame["type"]) || !hasPosition(frame)) return null;
  const { type: name, data, timestamp, channel, epoch, seq } = frame as JsonObject & { readonly type: string } & Positioned;
  return {
    type: "custom",
    name,
    data,
    ...(isString(timestamp) && { timestamp }),
    ...(channel !== undefined && { channel }),
    ...(epoch !== undefined && { epoch }),
    ...(seq !== undefined && { seq }),
  };
}
