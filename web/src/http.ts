/** One HTTP request with a token, as JSON in and out; uploads tell their progress where the platform can. */

import { ApiError, errorOfAnswer } from "./api-error.js";
import { bareToken, fetchToken, type TokenSource } from "./token.js";

/** Where and as whom to ask. */
export interface HttpOptions {
  readonly token: TokenSource;
  /** The server's origin; default: the page's. */
  readonly origin?: string;
}

/** How far an upload is. `total` is 0 where the platform cannot tell. */
export interface UploadProgress {
  readonly sentBytes: number;
  readonly totalBytes: number;
}

/** What a caller may add to a request. */
export interface RequestOptions {
  /** Aborts the request: it then fails with code `aborted`. */
  readonly signal?: AbortSignal;
  /** Called as an upload advances; in browsers only. */
  readonly onProgress?: (progress: UploadProgress) => void;
}

interface Answer {
  readonly status: number;
  readonly body: string;
  readonly retryAfter: string | null;
}

/** Sends a request and reads the JSON answer, `null` where it is empty. Throws an {@link ApiError} for anything but 2xx. */
export async function request(
  http: HttpOptions,
  method: string,
  path: string,
  body: Blob | object | null = null,
  options: RequestOptions = {},
): Promise<unknown> {
  let answer = await attempt(http, method, path, body, options, false);
  // An expired token is worth one fresh one; a plain token cannot be refreshed and the answer stands.
  if (answer.status === 401 && typeof http.token === "function") {
    answer = await attempt(http, method, path, body, options, true);
  }
  if (answer.status < 200 || answer.status > 299) throw errorOfAnswer(answer.status, answer.body, answer.retryAfter);
  if (answer.body === "") return null;
  try {
    return JSON.parse(answer.body) as unknown;
  } catch {
    throw new ApiError(answer.status, "bad_answer", "the server's answer is not JSON");
  }
}

async function attempt(
  http: HttpOptions,
  method: string,
  path: string,
  body: Blob | object | null,
  options: RequestOptions,
  isRefresh: boolean,
): Promise<Answer> {
  const token = await fetchToken(http.token, { isRefresh });
  if (token === null) throw new ApiError(401, "signed_out", "there is no token");
  const url = http.origin === undefined ? path : new URL(path, http.origin).href;
  const headers: Record<string, string> = { Authorization: `Bearer ${bareToken(token)}`, Accept: "application/json" };
  const payload = body === null || body instanceof Blob ? body : JSON.stringify(body);
  if (payload !== null) headers["Content-Type"] = payload instanceof Blob ? payload.type : "application/json";
  // fetch cannot tell how much of a body is sent; XMLHttpRequest can.
  const canTell = options.onProgress !== undefined && typeof XMLHttpRequest === "function";
  return canTell ? byXhr(url, method, headers, payload, options) : byFetch(url, method, headers, payload, options);
}

async function byFetch(
  url: string,
  method: string,
  headers: Record<string, string>,
  body: Blob | string | null,
  { signal }: RequestOptions,
): Promise<Answer> {
  try {
    const answer = await fetch(url, { method, headers, body, ...(signal && { signal }) });
    return { status: answer.status, body: await answer.text(), retryAfter: answer.headers.get("Retry-After") };
  } catch {
    throw brokenRequest(signal);
  }
}

function byXhr(
  url: string,
  method: string,
  headers: Record<string, string>,
  body: Blob | string | null,
  { signal, onProgress }: RequestOptions,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    const abort = (): void => xhr.abort();
    const finish = (settle: () => void): void => {
      signal?.removeEventListener("abort", abort);
      settle();
    };
    xhr.open(method, url);
    for (const [name, value] of Object.entries(headers)) xhr.setRequestHeader(name, value);
    xhr.upload.onprogress = (event) => {
      onProgress?.({ sentBytes: event.loaded, totalBytes: event.lengthComputable ? event.total : 0 });
    };
    xhr.onload = () =>
      finish(() =>
        resolve({ status: xhr.status, body: xhr.responseText, retryAfter: xhr.getResponseHeader("Retry-After") }),
      );
    xhr.onerror = () => finish(() => reject(brokenRequest(signal)));
    xhr.onabort = () => finish(() => reject(brokenRequest(signal)));
    if (signal?.aborted === true) {
      reject(brokenRequest(signal));
      return;
    }
    signal?.addEventListener("abort", abort);
    xhr.send(body);
  });
}

function brokenRequest(signal: AbortSignal | undefined): ApiError {
  return signal?.aborted === true
    ? new ApiError(0, "aborted", "the request was cancelled")
    : new ApiError(0, "network", "the server could not be reached");
}
