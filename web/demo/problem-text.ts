/** What to tell a person when a request fails. */

import { ApiError } from "../src/index.js";
import { texts } from "./texts.js";

/** One sentence for `error`. */
export function problemText(error: unknown): string {
  const { problems } = texts;
  if (!(error instanceof ApiError)) return problems.generic(String(error));
  // The server names what is wrong: nothing that could be said here is clearer.
  if (error.status < 500 && Object.keys(error.fields).length > 0) return fieldsText(error);
  const seconds = error.retryAfterS === null ? null : Math.ceil(error.retryAfterS);
  switch (error.status) {
    case 0:
      return problems.network;
    case 401:
      return texts.sessionExpired;
    case 403:
      return problems.forbidden;
    case 404:
      return problems.notFound;
    case 409:
      return problems.conflict;
    case 413:
      return problems.tooLarge(error.detail);
    case 415:
      return problems.wrongType(error.detail);
    case 429:
      return problems.tooMany(seconds);
    case 503:
      return problems.unavailable(seconds);
    default:
      return error.status >= 500 ? problems.server(error.status) : problems.generic(error.detail);
  }
}

/** The fields that the server named, each with its text. */
function fieldsText(error: ApiError): string {
  const lines = Object.entries(error.fields).map(([field, text]) => `${fieldName(field)}: ${text === "" ? error.detail : text}`);
  return `${texts.problems.fields} ${lines.join("; ")}`;
}

/** A wire field by the name that the page shows. */
export function fieldName(field: string): string {
  const photo = photoIndex(field);
  return photo === null ? (texts.fields[field] ?? field) : texts.photoField(photo + 1);
}

/** N of `imageFile_N` and `imageMetadata_N`. */
export function photoIndex(field: string): number | null {
  const match = /^image(?:File|Metadata)_(\d+)$/.exec(field);
  return match?.[1] === undefined ? null : Number(match[1]);
}
