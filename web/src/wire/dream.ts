/** Dialect D: the live state of one dream's images, on `/ws/dream-images/{id}/`. */

import type { Parsed } from "../connection-types.js";
import { isArrayOf, isId, isMissingOr, isNumber, isObject, isString } from "../json.js";
import {
  hasPosition,
  isErrorFrame,
  isPongFrame,
  isTimestamp,
  parseFrame,
  type ErrorFrame,
  type FrameChecks,
  type Id,
  type PongFrame,
  type Positioned,
} from "./frame.js";

/** Every state that an `image_update` can tell. */
export const IMAGE_STATUSES = [
  "processing",
  "completed",
  "failed",
  "delete_processing",
  "delete_completed",
  "delete_failed",
] as const;

/** The state of a dream's images. */
export type ImageStatus = (typeof IMAGE_STATUSES)[number];

/** One size of a picture. */
export interface ImageVariant {
  readonly url: string;
  /** Pixels, as displayed. */
  readonly width: number;
  readonly height: number;
  readonly bytes?: number;
  readonly format?: string;
}

/** A finished picture of a dream. */
export interface DreamImage {
  readonly id: Id;
  /** The default variant. */
  readonly url: string;
  /** Where it stands in the dream's text, in UTF-16 code units; beyond the end means at the end. */
  readonly position: number;
  /** Pixels of the default variant, as displayed. */
  readonly width?: number | null;
  readonly height?: number | null;
  /** A thumbhash, base64: what to show until the picture has loaded. */
  readonly placeholder?: string | null;
  /** `#rrggbb`. */
  readonly dominant_color?: string | null;
  /** Sizes by name, such as `large`, `medium`, `small`. */
  readonly variants?: { readonly [name: string]: ImageVariant } | null;
}

/** Why one picture failed. */
export interface ImageError {
  readonly image_id: Id;
  /** A stable word, such as `unsupported_format`. */
  readonly code: string;
  /** A human sentence. */
  readonly detail: string;
}

/** The session is accepted and the subscription is active: nothing published from now on is missed. */
export interface ConnectionEstablishedFrame {
  readonly type: "connection_established";
  readonly dream_id: Id;
  readonly message?: string | null;
}

/** The images' state changed, or this is the latest state on connecting. */
export interface ImageUpdateFrame extends Positioned {
  readonly type: "image_update";
  readonly dream_id: Id;
  readonly status: ImageStatus;
  /** Every finished picture; empty unless `completed`. */
  readonly images: readonly DreamImage[];
  /** Unix seconds with a fraction. */
  readonly timestamp: number;
  /** A human sentence, where there is something to say. */
  readonly message?: string | null;
  /** Grows with every change of the dream; a smaller one than seen before is old news. */
  readonly version?: number | null;
  /** The pictures that failed. */
  readonly errors?: readonly ImageError[] | null;
}

/** One picture went a step further. Sent only to connections that asked for it. */
export interface ImageProgressFrame extends Positioned {
  readonly type: "image_progress";
  readonly dream_id: Id;
  readonly image_id: Id;
  /** Steps done, of `total`. */
  readonly done: number;
  readonly total: number;
}

/** The server asks whether this client is alive; answered by the library. */
export interface ServerPingFrame {
  readonly type: "ping";
  readonly timestamp?: number | string | null;
}

/** Everything that the server sends on dialect D. */
export type DreamServerFrame =
  | ConnectionEstablishedFrame
  | ImageUpdateFrame
  | ImageProgressFrame
  | ServerPingFrame
  | PongFrame
  | ErrorFrame;

/** Everything that this library sends on dialect D. */
export type DreamClientFrame =
  | { readonly type: "authenticate"; readonly token: string }
  | { readonly type: "ping"; readonly timestamp: number }
  | { readonly type: "pong"; readonly timestamp: number | string | null }
  | { readonly type: "request_status"; readonly dream_id: Id };

function isImageStatus(value: unknown): value is ImageStatus {
  return IMAGE_STATUSES.some((status) => status === value);
}

function isVariant(value: unknown): value is ImageVariant {
  return isObject(value) && isString(value["url"]) && isNumber(value["width"]) && isNumber(value["height"]);
}

function isVariants(value: unknown): value is { readonly [name: string]: ImageVariant } {
  return isObject(value) && Object.values(value).every(isVariant);
}

/** True for a picture with all that the page needs, well-typed. */
export function isDreamImage(value: unknown): value is DreamImage {
  return (
    isObject(value) &&
    isId(value["id"]) &&
    isString(value["url"]) &&
    isNumber(value["position"]) &&
    isMissingOr(value["width"], isNumber) &&
    isMissingOr(value["height"], isNumber) &&
    isMissingOr(value["placeholder"], isString) &&
    isMissingOr(value["dominant_color"], isString) &&
    isMissingOr(value["variants"], isVariants)
  );
}

/** True for a per-image error. */
export function isImageError(value: unknown): value is ImageError {
  return isObject(value) && isId(value["image_id"]) && isString(value["code"]) && isString(value["detail"]);
}

function isImageErrors(value: unknown): value is ImageError[] {
  return isArrayOf(value, isImageError);
}

const CHECKS: FrameChecks<DreamServerFrame> = {
  connection_established: (frame) => isId(frame["dream_id"]) && isMissingOr(frame["message"], isString),
  image_update: (frame) =>
    isId(frame["dream_id"]) &&
    isImageStatus(frame["status"]) &&
    isArrayOf(frame["images"], isDreamImage) &&
    isNumber(frame["timestamp"]) &&
    isMissingOr(frame["message"], isString) &&
    isMissingOr(frame["version"], isNumber) &&
    isMissingOr(frame["errors"], isImageErrors) &&
    hasPosition(frame),
  image_progress: (frame) =>
    isId(frame["dream_id"]) && isId(frame["image_id"]) && isNumber(frame["done"]) && isNumber(frame["total"]),
  ping: (frame) => isMissingOr(frame["timestamp"], isTimestamp),
  pong: isPongFrame,
  error: isErrorFrame,
};

/** Reads one server frame of dialect D. */
export function parseDreamFrame(text: string): Parsed<DreamServerFrame> {
  return parseFrame(text, CHECKS);
}
