/** Dialect P: who is there, chat, typing and notifications, on `/api/v1/ws`. */

import type { Parsed } from "../connection-types.js";
import { isBoolean, isId, isMissingOr, isNumber, isObject, isString, type JsonObject } from "../json.js";
import {
  customEvent,
  EXTENSION_CHECKS,
  type CustomEventFrame,
  type ExtensionClientFrame,
  type ExtensionServerFrame,
  type HistoryFrame,
} from "./extensions.js";
import {
  hasPosition,
  isErrorFrame,
  isPongFrame,
  isTimestamp,
  parseFrame,
  type ErrorFrame,
  type FrameCheck,
  type FrameChecks,
  type Id,
  type PongFrame,
  type Positioned,
} from "./frame.js";

/** What a user may say of themselves; `offline` while connected means invisible. */
export const PRESENCE_STATUSES = ["online", "away", "busy", "offline"] as const;

/** A user's presence. */
export type PresenceStatus = (typeof PRESENCE_STATUSES)[number];

/** The first frame: the session is accepted. */
export interface ConnectedFrame {
  readonly type: "connected";
  readonly data: {
    readonly message: string;
    readonly user_id: Id;
    /** Users online, this one included. */
    readonly online_count: number;
  };
}

/** Another user's first connection came, or the last one went. Never sent for `away` and `busy`, nor about oneself. */
export interface UserStatusFrame {
  readonly type: "user_status";
  readonly data: { readonly user_id: Id; readonly status: "online" | "offline"; readonly timestamp: string };
}

/** Something for this user. */
export interface PresenceNotificationFrame extends Positioned {
  readonly type: "notification";
  /** `new_follower`, `new_like`, `new_comment`, `comment_reply`, `mention`, or one of a later server. */
  readonly notification_type: string;
  readonly data: {
    readonly id: Id;
    readonly type: string;
    readonly title: string;
    readonly message: string;
    readonly data?: unknown;
    readonly link?: string | null;
    readonly created_at: string;
  };
  readonly timestamp: string;
}

/** A message from another user. */
export interface ChatFrame extends Positioned {
  readonly type: "chat";
  readonly data: {
    readonly from_user_id: Id;
    readonly from_username: string;
    readonly message: string;
    readonly timestamp: string;
  };
  readonly timestamp: string;
}

/** Another user started or stopped typing in a context. */
export interface TypingFrame {
  readonly type: "typing";
  readonly data: { readonly user_id: Id; readonly is_typing: boolean; readonly context?: string | null };
}

/** Another user said how present they are. */
export interface PresenceFrame {
  readonly type: "presence";
  readonly data: { readonly user_id: Id; readonly status: PresenceStatus; readonly data?: { readonly device?: string } | null };
}

/** The stored events of dialect P, as opposed to passing ones and answers. */
export type PresenceEvent = PresenceNotificationFrame | ChatFrame | CustomEventFrame;

/** Everything that the server sends on dialect P. */
export type PresenceServerFrame =
  | ConnectedFrame
  | UserStatusFrame
  | PresenceEvent
  | TypingFrame
  | PresenceFrame
  | ExtensionServerFrame
  | HistoryFrame<unknown>
  | PongFrame
  | ErrorFrame;

/** Everything that this library sends on dialect P. Timestamps are ISO 8601 with milliseconds. */
export type PresenceClientFrame =
  | { readonly type: "ping"; readonly timestamp: string }
  | { readonly type: "typing"; readonly data: { readonly is_typing: boolean; readonly context: string } }
  | { readonly type: "presence"; readonly status: PresenceStatus; readonly data: { readonly device: string } }
  | { readonly type: "message"; readonly to_user_id: Id; readonly message: string; readonly timestamp: string }
  | ExtensionClientFrame;

const hasData =
  (check: (data: JsonObject) => boolean): FrameCheck =>
  (frame) =>
    isObject(frame["data"]) && check(frame["data"]) && hasPosition(frame);

function isPresenceStatus(value: unknown): value is PresenceStatus {
  return PRESENCE_STATUSES.some((status) => status === value);
}

const CHECKS: FrameChecks<PresenceServerFrame> = {
  connected: hasData((data) => isString(data["message"]) && isId(data["user_id"]) && isNumber(data["online_count"])),
  user_status: hasData(
    ({ user_id, status, timestamp }) =>
      isId(user_id) && (status === "online" || status === "offline") && isTimestamp(timestamp),
  ),
  notification: (frame) =>
    isString(frame["notification_type"]) &&
    hasData(
      (data) =>
        isId(data["id"]) &&
        isString(data["type"]) &&
        isString(data["title"]) &&
        isString(data["message"]) &&
        isMissingOr(data["link"], isString) &&
        isString(data["created_at"]),
    )(frame),
  chat: hasData(
    (data) => isId(data["from_user_id"]) && isString(data["from_username"]) && isString(data["message"]) && isTimestamp(data["timestamp"]),
  ),
  typing: hasData(
    (data) => isId(data["user_id"]) && isBoolean(data["is_typing"]) && isMissingOr(data["context"], isString),
  ),
  presence: hasData(
    (data) => isId(data["user_id"]) && isPresenceStatus(data["status"]) && isMissingOr(data["data"], isObject),
  ),
  custom: () => false,
  ...EXTENSION_CHECKS,
  pong: isPongFrame,
  error: isErrorFrame,
};

/** Reads one server frame of dialect P. */
export function parsePresenceFrame(text: string): Parsed<PresenceServerFrame> {
  return parseFrame<PresenceServerFrame>(text, CHECKS, customEvent);
}
