/** Where tokens come from. */

/** Why a token is asked for. */
export interface TokenRequest {
  /**
   * True where the server refused or expired the last token: a provider then fetches a new one instead of answering from
   * its cache.
   */
  readonly isRefresh: boolean;
}

/**
 * Yields a JWT, with or without `Bearer `. `null` means that there is none (signed out): the connection closes.
 * A rejected promise counts as a failed connection attempt and is tried again after the backoff delay.
 */
export type TokenProvider = (request: TokenRequest) => string | null | Promise<string | null>;

/** A provider, or a plain token, which cannot be refreshed. */
export type TokenSource = TokenProvider | string;

/** Asks `source` for a token; `null` where there is none, or where a plain token would have to be refreshed. */
export async function fetchToken(source: TokenSource, request: TokenRequest): Promise<string | null> {
  if (typeof source === "function") return source(request);
  return request.isRefresh ? null : source;
}

/** The token without `Bearer ` and surrounding blanks, as query parameters carry it. */
export function bareToken(token: string): string {
  return token.trim().replace(/^bearer\s+/i, "");
}
