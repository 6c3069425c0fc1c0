/**
 * The server's event stream in the shape of a WebSocket, for networks that let no WebSocket through.
 *
 * What a client sends becomes the request: channels its query, positions its `Last-Event-ID`. Every change of them opens the
 * stream anew behind what has been received. Answers are made here, once a stream that has what was asked for lives; pings
 * are answered for as long as the server's own beats arrive.
 */

import { IMPLICIT, isOwnChannel } from "./channels.js";
import type { CloseInfo, SocketLike } from "./connection-types.js";
import { isObject, isString, parseJson } from "./json.js";
import type { SincePoint } from "./wire/extensions.js";

/** The server beats every 30 s; this is its own measure of a dead client. */
const SILENCE_MS = 75_000;

/** A server tells at once where its channels stand, but an older one sends nothing before its first event or beat. */
const BEGIN_MS = 3_000;

/** Each of these brings the user's own channel along, whose name only the server knows. */
const OF_OWN_CHANNEL = [...IMPLICIT].filter((channel) => channel !== "alerts");

/** What a refused request means as a close code; all else counts as a broken connection. */
const REFUSALS: { readonly [status: number]: number } = { 401: 4001, 403: 4003, 429: 4029, 503: 1013 };

type Sent = { readonly type?: unknown; readonly [name: string]: unknown };

function pointOf(position: string): SincePoint {
  const at = position.lastIndexOf(":");
  return { epoch: position.slice(0, at), offset: Number(position.slice(at + 1)) };
}

/** A stream of `url` (`http:` or `https:`) that looks like a WebSocket of dialect N. */
export class EventStreamSocket implements SocketLike {
  onopen: ((event: object) => void) | null = null;
  onmessage: ((event: { readonly data: string }) => void) | null = null;
  onerror: ((event: object) => void) | null = null;
  onclose: ((event: CloseInfo) => void) | null = null;

  private readonly channels = new Set(IMPLICIT);
  /** Behind what each channel is to be continued, as `epoch:offset`. */
  private readonly positions = new Map<string, string>();
  /** Channels that the next stream continues from elsewhere, or is without: what the present one tells of them is void. */
  private readonly moved = new Set<string>();
  /** Make what is to be told, oldest first, once the stream has what was asked for. */
  private answers: (() => object)[] = [];
  private request: AbortController | null = null;
  private isOpen = false;
  private isOver = false;
  /** The stream is not what was asked for any more. */
  private isChanged = false;
  /** The stream's first record has come, by which the server tells where its channels stand, or was waited for long enough. */
  private hasBegun = false;
  private beginTimer: ReturnType<typeof setTimeout> | undefined;
  private heardAtMs = 0;

  constructor(
    private readonly url: string,
    private readonly token: string,
  ) {
    setTimeout(() => {
      if (!this.isOver) void this.open();
    });
  }

  send(data: string): void {
    const sent = JSON.parse(data) as Sent;
    const named = (Array.isArray(sent["channels"]) ? sent["channels"] : []) as string[];
    const isInStream = named.every((name) => IMPLICIT.has(name) && this.channels.has(name));
    switch (sent.type) {
      case "ping":
        if (Date.now() - this.heardAtMs > SILENCE_MS) return;
        this.answer(() => ({ type: "pong", timestamp: sent["timestamp"] ?? new Date().toISOString() }));
        return;
      case "subscribe":
        if (sent["mode"] === "replace") this.leave([...this.channels].filter((channel) => !named.includes(channel)));
        for (const channel of named) this.channels.add(channel);
        this.continueFrom(named, sent["since"]);
        this.answer(() => ({ type: "subscription_success", channels: named, positions: this.positionsOf(named) }));
        // What every user has is never refused: a stream that was asked for it has it.
        if (isInStream && sent["mode"] !== "replace" && sent["since"] === undefined) return;
        break;
      case "unsubscribe":
        this.leave(named);
        this.answer(() => ({ type: "unsubscribed", channels: named }));
        break;
      case "resume":
        if (typeof sent["channel"] !== "string" || !this.isAskedFor(sent["channel"])) return;
        this.continueFrom([sent["channel"]], { epoch: sent["epoch"], offset: sent["seq"] });
        break;
      default:
        return;
    }
    this.isChanged = true;
    this.reopenSoon();
  }

  close(): void {
    this.isOver = true;
    clearTimeout(this.beginTimer);
    this.request?.abort();
  }

  private leave(channels: readonly string[]): void {
    // Alerts reach everybody.
    for (const channel of channels) if (channel !== "alerts") this.channels.delete(channel);
    for (const channel of [...channels, ...this.positions.keys()]) {
      if (this.isAskedFor(channel)) continue;
      // Joined again, it begins anew: what comes meanwhile is not to be replayed.
      this.positions.delete(channel);
      this.moved.add(channel);
    }
  }

  private isAskedFor(channel: string): boolean {
    const isBrought = isOwnChannel(channel) && OF_OWN_CHANNEL.some((name) => this.channels.has(name));
    return isBrought || this.channels.has(channel);
  }

  private continueFrom(channels: readonly string[], since: unknown): void {
    if (typeof since !== "object" || since === null) return;
    for (const channel of channels) {
      const { epoch, offset } = ("epoch" in since ? since : ((since as Sent)[channel] ?? {})) as Partial<SincePoint>;
      if (epoch === undefined || offset === undefined) continue;
      this.positions.set(channel, `${epoch}:${offset}`);
      this.moved.add(channel);
    }
  }

  /** Where `channels` stand, as a server tells it: what a client that sees no event of them resumes from. */
  private positionsOf(channels: readonly string[]): { readonly [channel: string]: SincePoint } {
    const isOwnAmong = channels.some((channel) => OF_OWN_CHANNEL.includes(channel));
    const isAmong = (channel: string): boolean => channels.includes(channel) || (isOwnAmong && isOwnChannel(channel));
    const told = [...this.positions].filter(([channel]) => isAmong(channel));
    return Object.fromEntries(told.map(([channel, position]) => [channel, pointOf(position)]));
  }

  private answer(make: () => object): void {
    this.answers.push(make);
    // As from a server: never before the sender has returned.
    queueMicrotask(() => this.tellAnswers());
  }

  /** An accepted request alone proves nothing: there are proxies that cut its response at once. */
  private tellAnswers(): void {
    if (this.isChanged || !this.hasBegun) return;
    for (const make of this.answers.splice(0)) this.tell(JSON.stringify(make()));
  }

  private tell(data: string): void {
    if (!this.isOver) this.onmessage?.({ data });
  }

  /**
   * Several messages of one moment make one request. It waits until the present stream has begun: without knowing where the
   * channels stand there, what is published before the next stream joins them would be lost.
   */
  private reopenSoon(): void {
    setTimeout(() => {
      if (this.isChanged && this.hasBegun && !this.isOver) void this.open();
    });
  }

  private async open(): Promise<void> {
    clearTimeout(this.beginTimer);
    this.request?.abort();
    const request = new AbortController();
    this.request = request;
    this.isChanged = false;
    this.hasBegun = false;
    this.moved.clear();
    try {
      const url = new URL(this.url);
      url.searchParams.set("channels", [...this.channels].join(","));
      const last = [...this.positions].map(([channel, position]) => `${channel}=${position}`).join(",");
      const headers = { Authorization: `Bearer ${this.token}`, ...(last !== "" && { "Last-Event-ID": last }) };
      const response = await fetch(url, { headers, signal: request.signal, cache: "no-store" });
      // A network that wants a sign-in first answers with a page of its own.
      const isStream = response.headers.get("content-type")?.toLowerCase().startsWith("text/event-stream") === true;
      if (!response.ok || !isStream || response.body === null) {
        const pause = response.headers.get("retry-after");
        this.end(REFUSALS[response.status] ?? 1006, pause === null ? `HTTP ${response.status}` : `retry_after=${pause}`);
        return;
      }
      this.heardAtMs = Date.now();
      this.beginTimer = setTimeout(() => this.begin(), BEGIN_MS);
      if (!this.isOpen) {
        this.isOpen = true;
        this.onopen?.({});
      }
      await this.read(response.body.getReader(), request);
      if (request === this.request) this.end(1006, "the stream ended");
    } catch (error) {
      if (request === this.request) this.end(1006, String(error));
    }
  }

  private async read(reader: ReadableStreamDefaultReader<Uint8Array>, request: AbortController): Promise<void> {
    const decoder = new TextDecoder();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done || request !== this.request) return;
      this.heardAtMs = Date.now();
      const records = (rest + decoder.decode(value, { stream: true })).split("\n\n");
      rest = records.pop() ?? "";
      for (const record of records) {
        this.received(record);
        this.begin();
      }
    }
  }

  private begin(): void {
    if (this.hasBegun) return;
    clearTimeout(this.beginTimer);
    this.hasBegun = true;
    this.tellAnswers();
    this.reopenSoon();
  }

  private received(record: string): void {
    const fields = new Map(record.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
    for (const pair of fields.get("id")?.split(",") ?? []) {
      const at = pair.indexOf("=");
      const channel = pair.slice(0, at);
      if (!this.moved.has(channel)) this.positions.set(channel, pair.slice(at + 1));
    }
    const data = fields.get("data");
    if (data === undefined) return;
    if (fields.get("event") === "close") {
      const { code, reason } = JSON.parse(data) as CloseInfo;
      this.end(code, reason);
    } else if (!this.isVoid(data)) {
      this.tell(data);
    }
  }

  /** True for what comes again with the next stream, or is of a channel that was left. */
  private isVoid(data: string): boolean {
    if (this.moved.size === 0) return false;
    const frame = parseJson(data);
    return isObject(frame) && isString(frame["channel"]) && this.moved.has(frame["channel"]);
  }

  private end(code: number, reason: string): void {
    if (this.isOver) return;
    this.close();
    this.onclose?.({ code, reason });
  }
}
