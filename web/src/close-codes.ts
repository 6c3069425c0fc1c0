/**
 * What to do when the server closes a connection: one table, by close code.
 *
 * The codes are part of the wire protocol; the server holds the same table. Two codes never travel: 1005 (closed without
 * a code) and 1006 (the connection broke), which the browser reports by itself (RFC 6455, section 7.4.1).
 */

/** What a client does after a close. */
export enum CloseAction {
  /** Connect again after the backoff delay, or after `retry_after` where the reason names it. */
  Reconnect = "reconnect",
  /** The same, and nothing is lost: the missed events are replayed, or a snapshot replaces them. */
  Resume = "resume",
  /** Ask the token provider for a fresh token, then connect again at once. */
  RefreshToken = "refresh_token",
  /** Give up: trying again would end the same way. */
  Stop = "stop",
}

/** One row of {@link CLOSE_CODES}. */
export interface CloseCode {
  readonly code: number;
  readonly name: string;
  readonly action: CloseAction;
  /** What it means, as a sentence for a log or a developer. */
  readonly meaning: string;
}

/** Every close code that the protocols name. Unknown codes mean {@link CloseAction.Reconnect}. */
export const CLOSE_CODES: readonly CloseCode[] = [
  { code: 1000, name: "normal", action: CloseAction.Stop, meaning: "closed for good: nothing more will come" },
  { code: 1001, name: "going_away", action: CloseAction.Reconnect, meaning: "idle for too long, or the server goes away" },
  { code: 1002, name: "protocol_error", action: CloseAction.Reconnect, meaning: "a frame that breaks the WebSocket protocol" },
  { code: 1003, name: "unsupported_data", action: CloseAction.Stop, meaning: "binary data where text was expected" },
  { code: 1005, name: "no_status", action: CloseAction.Reconnect, meaning: "closed without a code" },
  { code: 1006, name: "abnormal", action: CloseAction.Reconnect, meaning: "the connection broke or could not be made" },
  { code: 1007, name: "invalid_utf8", action: CloseAction.Stop, meaning: "text that was not UTF-8" },
  { code: 1008, name: "policy", action: CloseAction.Stop, meaning: "a message in too many fragments" },
  { code: 1009, name: "too_big", action: CloseAction.Stop, meaning: "a message was too big" },
  { code: 1011, name: "internal", action: CloseAction.Reconnect, meaning: "the server failed" },
  { code: 1012, name: "restart", action: CloseAction.Reconnect, meaning: "the server restarts" },
  { code: 1013, name: "try_later", action: CloseAction.Reconnect, meaning: "the server is full" },
  { code: 4001, name: "auth_failed", action: CloseAction.RefreshToken, meaning: "the token is bad or has expired" },
  { code: 4003, name: "forbidden", action: CloseAction.Stop, meaning: "no such thing, or not yours" },
  { code: 4008, name: "auth_timeout", action: CloseAction.Reconnect, meaning: "no token was sent in time" },
  { code: 4009, name: "replaced", action: CloseAction.Stop, meaning: "too many connections of this user" },
  { code: 4010, name: "slow_consumer", action: CloseAction.Resume, meaning: "too slow to keep up" },
  { code: 4029, name: "rate_limit", action: CloseAction.Reconnect, meaning: "too many messages or attempts" },
];

/** A client that was told to slow down waits at least this long, in seconds, where the server names no time. */
export const RATE_LIMIT_PAUSE_S = 5;

const BY_CODE = new Map(CLOSE_CODES.map((row) => [row.code, row]));

/** The row of `code`; a generic one, to reconnect, where the table does not know it. */
export function closeCode(code: number): CloseCode {
  return BY_CODE.get(code) ?? { code, name: "unknown", action: CloseAction.Reconnect, meaning: `closed with code ${code}` };
}
