/**
 * The server's event stream in the shape of a WebSocket, for networks that let no WebSocket through.
 *
 * What a client sends becomes the request: channels its query, positions its `Last-Event-ID`. Every change of them opens the
 * stream anew behind what has been received. Pings are answered here, for as long as the server's own beats arrive.
 */

import type { CloseInfo, SocketLike } from "./connection-types.js";

/** The server beats every 30 s; this is its own measure of a dead client. */
const SILENCE_MS = 75_000;

/** What every user gets where no channels are named. */
const IMPLICIT = ["notifications", "alerts", "orders", "materials"];

/** What a refused request means as a close code; all else counts as a broken connection. */
const REFUSALS: { readonly [status: number]: number } = { 401: 4001, 403: 4003, 429: 4029, 503: 1013 };

interface Position {
  readonly epoch: string;
  readonly offset: number;
}

type Sent = { readonly type?: unknown; readonly [name: string]: unknown };

/** A stream of `url` (`http:` or `https:`) that looks like a WebSocket of dialect N. */
export class EventStreamSocket implements SocketLike {
  onopen: ((event: object) => void) | null = null;
  onmessage: ((event: { readonly data: string }) => void) | null = null;
  onerror: ((event: object) => void) | null = null;
  onclose: ((event: CloseInfo) => void) | null = null;

  private readonly channels = new Set(IMPLICIT);
  /** Behind what each channel is to be continued, as `epoch:offset`. */
  private readonly positions = new Map<string, string>();
  private request: AbortController | null = null;
  private isOpen = false;
  private isOver = false;
  private isChanged = true;
  private heardAtMs = 0;

  constructor(
    private readonly url: string,
    private readonly token: string,
  ) {
    this.openSoon();
  }

  send(data: string): void {
    const sent = JSON.parse(data) as Sent;
    const named = (Array.isArray(sent["channels"]) ? sent["channels"] : []) as string[];
    switch (sent.type) {
      case "ping":
        if (Date.now() - this.heardAtMs > SILENCE_MS) return;
        this.answer({ type: "pong", timestamp: sent["timestamp"] ?? new Date().toISOString() });
        return;
      case "subscribe":
        if (sent["mode"] === "replace") this.narrow();
        for (const channel of named) this.channels.add(channel);
        this.continueFrom(named, sent["since"]);
        this.answer({ type: "subscription_success", channels: named });
        break;
      case "unsubscribe":
        for (const channel of named) if (channel !== "alerts") this.channels.delete(channel);
        this.answer({ type: "unsubscribed", channels: named });
        break;
      case "resume":
        if (typeof sent["channel"] !== "string") return;
        this.continueFrom([sent["channel"]], { epoch: sent["epoch"], offset: sent["seq"] });
        break;
      default:
        return;
    }
    this.isChanged = true;
    this.openSoon();
  }

  close(): void {
    this.isOver = true;
    this.request?.abort();
  }

  /** Alerts reach everybody. */
  private narrow(): void {
    this.channels.clear();
    this.channels.add("alerts");
  }

  private continueFrom(channels: readonly string[], since: unknown): void {
    if (typeof since !== "object" || since === null) return;
    for (const channel of channels) {
      const { epoch, offset } = ("epoch" in since ? since : ((since as Sent)[channel] ?? {})) as Partial<Position>;
      if (epoch !== undefined && offset !== undefined) this.positions.set(channel, `${epoch}:${offset}`);
    }
  }

  private answer(frame: object): void {
    // As from a server: never before the sender has returned.
    queueMicrotask(() => this.tell(JSON.stringify(frame)));
  }

  private tell(data: string): void {
    if (!this.isOver) this.onmessage?.({ data });
  }

  /** Several messages of one moment make one request. */
  private openSoon(): void {
    setTimeout(() => {
      if (!this.isChanged || this.isOver) return;
      this.isChanged = false;
      void this.open();
    });
  }

  private async open(): Promise<void> {
    this.request?.abort();
    const request = new AbortController();
    this.request = request;
    try {
      const url = new URL(this.url);
      url.searchParams.set("channels", [...this.channels].join(","));
      const last = [...this.positions].map(([channel, position]) => `${channel}=${position}`).join(",");
      const headers = { Authorization: `Bearer ${this.token}`, ...(last !== "" && { "Last-Event-ID": last }) };
      const response = await fetch(url, { headers, signal: request.signal, cache: "no-store" });
      if (!response.ok || response.body === null) {
        const pause = response.headers.get("retry-after");
        this.end(REFUSALS[response.status] ?? 1006, pause === null ? `HTTP ${response.status}` : `retry_after=${pause}`);
        return;
      }
      this.heardAtMs = Date.now();
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
      const events = (rest + decoder.decode(value, { stream: true })).split("\n\n");
      rest = events.pop() ?? "";
      for (const event of events) this.received(event);
    }
  }

  private received(event: string): void {
    const fields = new Map(event.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
    for (const pair of fields.get("id")?.split(",") ?? []) {
      const at = pair.indexOf("=");
      this.positions.set(pair.slice(0, at), pair.slice(at + 1));
    }
    const data = fields.get("data");
    if (data === undefined) return;
    if (fields.get("event") !== "close") {
      this.tell(data);
      return;
    }
    const { code, reason } = JSON.parse(data) as CloseInfo;
    this.end(code, reason);
  }

  private end(code: number, reason: string): void {
    if (this.isOver) return;
    this.close();
    this.onclose?.({ code, reason });
  }
}
