/** What a refused or failed request says. */

import { isArrayOf, isObject, isString, parseJson, type JsonObject } from "./json.js";

/** A request that did not succeed. `status` 0 means that no answer came at all. */
export class ApiError extends Error {
  override readonly name = "ApiError";

  constructor(
    /** The HTTP status; 0 for a broken connection or an aborted request. */
    readonly status: number,
    /** A stable word, such as `invalid_field`; `network` or `aborted` where no answer came. */
    readonly code: string,
    /** A human sentence. */
    readonly detail: string,
    /** What is wrong with which field, by the field's wire name. */
    readonly fields: { readonly [field: string]: string } = {},
    /** The pause that the server asks for, in seconds. */
    readonly retryAfterS: number | null = null,
  ) {
    super(detail);
  }
}

/** Reads the error that an answer carries: `{"code","detail","fields"?}`, or whatever a proxy wrote instead. */
export function errorOfAnswer(status: number, body: string, retryAfter: string | null): ApiError {
  const json = parseJson(body);
  const { code, detail, fields } = isObject(json) ? json : ({} as JsonObject);
  return new ApiError(
    status,
    isString(code) ? code : `http_${status}`,
    isString(detail) ? detail : `the server answered ${status}`,
    readFields(fields),
    readRetryAfterS(retryAfter),
  );
}

/** Accepts `{field: "text"}`, `{field: ["text", ..]}` and `[{"field", "detail"}, ..]`. */
function readFields(fields: unknown): { readonly [field: string]: string } {
  if (Array.isArray(fields)) {
    const pairs = fields.filter(isObject).flatMap((entry) => {
      const { field, detail } = entry;
      return isString(field) ? [[field, isString(detail) ? detail : ""] as const] : [];
    });
    return Object.fromEntries(pairs);
  }
  if (!isObject(fields)) return {};
  const pairs = Object.entries(fields).map(([field, text]) => {
    if (isString(text)) return [field, text] as const;
    return [field, isArrayOf(text, isString) ? text.join(" ") : ""] as const;
  });
  return Object.fromEntries(pairs);
}

/** `Retry-After` in seconds; the header may carry a date instead (RFC 9110, section 10.2.3). */
function readRetryAfterS(header: string | null): number | null {
  if (header === null || header.trim() === "") return null;
  const seconds = Number(header);
  if (Number.isFinite(seconds)) return Math.max(0, seconds);
  const at = Date.parse(header);
  return Number.isNaN(at) ? null : Math.max(0, Math.ceil((at - Date.now()) / 1_000));
}
