/** Dialect N: notifications, alerts, orders, materials and custom channels, on `/ws/notifications/`. */

import type { Parsed } from "../connection-types.js";
import { isBoolean, isId, isNumber, isObject, isString, type JsonObject } from "../json.js";
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
  parseFrame,
  type ErrorFrame,
  type FrameCheck,
  type FrameChecks,
  type Id,
  type PongFrame,
  type Positioned,
} from "./frame.js";

/** Something for this user. */
export interface NotificationFrame extends Positioned {
  readonly type: "notification";
  readonly data: {
    readonly id: Id;
    readonly title: string;
    readonly content: string;
    /** What kind, such as `new_follower`. */
    readonly type: string;
    readonly is_read: boolean;
    /** ISO 8601. */
    readonly created_at: string;
  };
}

/** Something for everybody; sent whatever is subscribed. */
export interface AlertFrame extends Positioned {
  readonly type: "alert";
  readonly data: {
    readonly id: Id;
    readonly title: string;
    readonly content: string;
    /** `critical` is the one with a fixed meaning. */
    readonly severity: string;
    readonly status: string;
    readonly created_at: string;
  };
}

/** An order changed. */
export interface OrderUpdateFrame extends Positioned {
  readonly type: "order_update";
  readonly data: { readonly id: Id; readonly order_no: string; readonly status: string; readonly updated_at: string };
}

/** A material's stock changed. */
export interface MaterialUpdateFrame extends Positioned {
  readonly type: "material_update";
  readonly data: {
    readonly id: Id;
    readonly code: string;
    readonly name: string;
    readonly stock_quantity: number;
    readonly updated_at: string;
  };
}

/** The events of dialect N: what is published, as opposed to answers. */
export type NotificationsEvent =
  | NotificationFrame
  | AlertFrame
  | OrderUpdateFrame
  | MaterialUpdateFrame
  | CustomEventFrame;

/** Everything that the server sends on dialect N. */
export type NotificationsServerFrame =
  | NotificationsEvent
  | ExtensionServerFrame
  | HistoryFrame<NotificationsEvent>
  | PongFrame
  | ErrorFrame;

/** Everything that this library sends on dialect N. */
export type NotificationsClientFrame = { readonly type: "ping"; readonly timestamp?: string } | ExtensionClientFrame;

const hasData =
  (check: (data: JsonObject) => boolean): FrameCheck =>
  (frame) =>
    isObject(frame["data"]) && check(frame["data"]) && hasPosition(frame);

const areStrings = (data: JsonObject, ...names: readonly string[]): boolean => names.every((name) => isString(data[name]));

const CHECKS: FrameChecks<NotificationsServerFrame> = {
  notification: hasData(
    (data) => isId(data["id"]) && areStrings(data, "title", "content", "type", "created_at") && isBoolean(data["is_read"]),
  ),
  alert: hasData((data) => isId(data["id"]) && areStrings(data, "title", "content", "severity", "status", "created_at")),
  order_update: hasData((data) => isId(data["id"]) && areStrings(data, "order_no", "status", "updated_at")),
  material_update: hasData(
    (data) => isId(data["id"]) && areStrings(data, "code", "name", "updated_at") && isNumber(data["stock_quantity"]),
  ),
  // Never sent under this name: custom events come under their own, and are recognised by it being unknown.
  custom: () => false,
  ...EXTENSION_CHECKS,
  pong: isPongFrame,
  error: isErrorFrame,
};

/** What a publisher may leave out, and what then stands for it: an alert without a severity is an alert all the same. */
const DEFAULTS: { readonly [type: string]: JsonObject } = {
  notification: { id: "", title: "", content: "", type: "notification", is_read: false, created_at: "" },
  alert: { id: "", title: "", content: "", severity: "", status: "", created_at: "" },
  order_update: { id: "", order_no: "", status: "", updated_at: "" },
  material_update: { id: "", code: "", name: "", updated_at: "" },
};

function completed(frame: JsonObject): JsonObject {
  const { type, data } = frame;
  const defaults = isString(type) && Object.hasOwn(DEFAULTS, type) ? DEFAULTS[type] : undefined;
  if (defaults === undefined || !isObject(data)) return frame;
  const given = Object.entries(data).filter(([name, value]) => value !== null || !Object.hasOwn(defaults, name));
  return { ...frame, data: { ...defaults, ...Object.fromEntries(given) } };
}

/** Reads one server frame of dialect N. */
export function parseNotificationsFrame(text: string): Parsed<NotificationsServerFrame> {
  const parsed = parseFrame<NotificationsServerFrame>(text, CHECKS, customEvent, completed);
  if (!parsed.ok || parsed.frame.type !== "history") return parsed;
  const { events, ...rest } = parsed.frame;
  return { ok: true, frame: { ...rest, events: events.flatMap(historyEvent) } };
}

/** An event inside a history answer; one that is not understood is left out, as it would be live. */
function historyEvent(event: unknown): readonly NotificationsEvent[] {
  const parsed = parseNotificationsFrame(JSON.stringify(event));
  return parsed.ok && isNotificationsEvent(parsed.frame) ? [parsed.frame] : [];
}

/** True for what was published, false for answers to this client. */
export function isNotificationsEvent(frame: NotificationsServerFrame): frame is NotificationsEvent {
  switch (frame.type) {
    case "notification":
    case "alert":
    case "order_update":
    case "material_update":
    case "custom":
      return true;
    default:
      return false;
  }
}
