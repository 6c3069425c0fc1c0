/**
 * Reading untrusted JSON: small questions about an `unknown` value, answered with a narrowed type.
 */

/** A JSON object whose fields are not yet known. */
export type JsonObject = { readonly [key: string]: unknown };

/** True for a JSON object (not `null`, not an array). */
export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** True for a string. */
export function isString(value: unknown): value is string {
  return typeof value === "string";
}

/** True for a finite number (JSON has no others). */
export function isNumber(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value);
}

/** True for a boolean. */
export function isBoolean(value: unknown): value is boolean {
  return typeof value === "boolean";
}

/** True for an id, which the protocols write as a number or as a string. */
export function isId(value: unknown): value is number | string {
  return isNumber(value) || isString(value);
}

/** True where `value` is an array of which every item passes `item`. */
export function isArrayOf<T>(value: unknown, item: (entry: unknown) => entry is T): value is T[] {
  return Array.isArray(value) && value.every(item);
}

/** True where `value` is absent, null, or passes `test`. */
export function isMissingOr<T>(value: unknown, test: (entry: unknown) => entry is T): value is T | null | undefined {
  return value === undefined || value === null || test(value);
}

/** Parses `text`; `undefined` where it is not JSON, instead of an exception. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}
