/**
 * How long to wait before the next connection attempt.
 *
 * Exponential backoff with full jitter: the delay is drawn evenly from `[0, min(cap, base * 2^attempt)]`, so that
 * clients that lost the same server do not come back in one wave
 * (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
 */

/** Bounds of the backoff, in milliseconds. */
export interface BackoffOptions {
  /** Upper bound of the first delay. Default 1,000. */
  readonly baseMs: number;
  /** Upper bound of every delay. Default 30,000. */
  readonly capMs: number;
}

/** 1 s doubles to 30 s in five failures: quick for a blip, calm for an outage. */
export const DEFAULT_BACKOFF: BackoffOptions = { baseMs: 1_000, capMs: 30_000 };

/** A server that names a longer pause than this is not believed: the page would look dead. */
export const MAX_RETRY_AFTER_S = 600;

/** The largest delay that may follow `attempt` failed attempts (0 = the first), in milliseconds. */
export function backoffCeilingMs(attempt: number, options: BackoffOptions = DEFAULT_BACKOFF): number {
  // 2^31 already exceeds any sensible cap; the bound keeps the power finite after weeks of trying.
  const doublings = Math.min(Math.max(0, Math.trunc(attempt)), 31);
  return Math.min(options.capMs, options.baseMs * 2 ** doublings);
}

/**
 * The delay before the next attempt, in whole milliseconds.
 *
 * `retryAfterS` is what the server asked for, in seconds: never less than that is waited, and the jitter comes on top.
 * `random` yields numbers in `[0, 1)`; an argument so that tests own it.
 */
export function backoffDelayMs(
  attempt: number,
  options: BackoffOptions = DEFAULT_BACKOFF,
  retryAfterS: number | null = null,
  random: () => number = Math.random,
): number {
  const jitter = random() * backoffCeilingMs(attempt, options);
  const floor = retryAfterS === null ? 0 : Math.min(retryAfterS, MAX_RETRY_AFTER_S) * 1_000;
  return Math.floor(floor + jitter);
}

/** Reads `retry_after=<seconds>` out of a close reason; `null` where there is none. */
export function parseRetryAfterS(reason: string): number | null {
  const match = /(?:^|[\s;,])retry_after=(\d+(?:\.\d+)?)/i.exec(reason);
  return match?.[1] === undefined ? null : Number(match[1]);
}
