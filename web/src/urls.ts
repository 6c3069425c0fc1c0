/** Absolute URLs out of the paths that the protocols name. */

/** The WebSocket URL of `path` at `origin` (`http:`, `https:`, `ws:` or `wss:`; default: the page's), plus `query`. */
export function socketUrl(path: string, origin: string | undefined, query: { readonly [name: string]: string } = {}): string {
  const url = new URL(path, origin ?? globalThis.location.href);
  url.protocol = url.protocol === "https:" || url.protocol === "wss:" ? "wss:" : "ws:";
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  // Fragments are not allowed in WebSocket URLs (RFC 6455, section 3).
  url.hash = "";
  return url.href;
}

/** The URL of the event stream at `origin`, as for {@link socketUrl}. */
export function eventsUrl(origin: string | undefined, query: { readonly [name: string]: string } = {}): string {
  return socketUrl("/api/v1/events", origin, query).replace(/^ws/, "http");
}

/** True for a URL that is safe to put into an `img`: http(s), or relative to the page. Refuses `javascript:` and friends. */
export function isImageUrl(url: string, base: string = globalThis.location?.href ?? "http://localhost/"): boolean {
  try {
    const { protocol } = new URL(url, base);
    return protocol === "http:" || protocol === "https:";
  } catch {
    return false;
  }
}
