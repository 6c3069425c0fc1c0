/** What every dialect shares: ids, errors, positions, and the reading of one frame. */

import type { Parsed } from "../connection-types.js";
import { isMissingOr, isNumber, isObject, isString, parseJson, type JsonObject } from "../json.js";

/** An id as the wire carries it: compare as strings, for the same thing may come in both forms. */
export type Id = number | string;

/** True where both name the same thing, whichever form they came in. */
export function sameId(left: Id, right: Id): boolean {
  return String(left) === String(right);
}

/** The id as a client sends it: a number where it is one exactly, as the first protocol has it. */
export function wireId(id: Id): Id {
  const number = Number(id);
  return /^\d+$/.test(String(id)) && Number.isSafeInteger(number) ? number : id;
}

/** Where a stored event stands in its channel's history; absent from servers that keep none. */
export interface Positioned {
  /** Where it was published; an epoch and a seq count within one channel. */
  readonly channel?: string;
  /** Names one unbroken history; a new value means that the old offsets say nothing any more. */
  readonly epoch?: string;
  /** Grows by one with every event of the epoch. */
  readonly seq?: number;
}

/** Something this client sent was refused. The connection goes on. */
export interface ErrorFrame {
  readonly type: "error";
  /** A human sentence. */
  readonly message: string;
  /** A stable word, such as `INVALID_JSON`, `UNKNOWN_MESSAGE_TYPE`, `RATE_LIMITED`, `FORBIDDEN`. */
  readonly error_code?: string | null;
  readonly timestamp?: string | number | null;
}

/** The server echoes a ping's own timestamp, whatever it was, or gives its time where there was none. */
export interface PongFrame {
  readonly type: "pong";
  readonly timestamp: number | string;
  /** The server's clock, ISO 8601 or Unix seconds. */
  readonly server_time?: number | string | null;
}

/** Says whether a frame of a known type has the fields that its type promises. Unknown further fields are fine. */
export type FrameCheck = (frame: JsonObject) => boolean;

/** One check per type of a union; a type that is missing here does not compile. */
export type FrameChecks<In extends { readonly type: string }> = { readonly [K in In["type"]]: FrameCheck };

/** True for a timestamp of any dialect: a number, or an ISO 8601 string. */
export function isTimestamp(value: unknown): value is number | string {
  return isNumber(value) || isString(value);
}

/** True where `channel`, `epoch` and `seq` are absent or well-formed. */
export const hasPosition: FrameCheck = (frame) =>
  isMissingOr(frame["channel"], isString) && isMissingOr(frame["epoch"], isString) && isMissingOr(frame["seq"], isNumber);

export const isErrorFrame: FrameCheck = (frame) =>
  isString(frame["message"]) && isMissingOr(frame["error_code"], isString) && isMissingOr(frame["timestamp"], isTimestamp);

export const isPongFrame: FrameCheck = (frame) => isTimestamp(frame["timestamp"]);

/**
 * Reads one text frame: parses, looks its `type` up in `checks`, and verifies the fields.
 * `fallback` may still make something of a type that the table does not know; `prepare` may fill in what is missing.
 */
export function parseFrame<In extends { readonly type: string }>(
  text: string,
  checks: FrameChecks<In>,
  fallback: (frame: JsonObject) => In | null = () => null,
  prepare: (frame: JsonObject) => JsonObject = (frame) => frame,
): Parsed<In> {
  const json = parseJson(text);
  if (!isObject(json)) return { ok: false, ignored: { because: "not_json", frame: json ?? text } };
  const frame = prepare(json);
  const { type } = frame;
  const check = isString(type) && Object.hasOwn(checks, type) ? checks[type as In["type"]] : undefined;
  if (check === undefined) {
    const other = isString(type) ? fallback(frame) : null;
    return other === null ? { ok: false, ignored: { because: "unknown_type", frame } } : { ok: true, frame: other };
  }
  if (!check(frame)) return { ok: false, ignored: { because: "malformed", frame } };
  // The one cast of this library's input: the check above has verified what the type says.
  return { ok: true, frame: frame as unknown as In };
}
