/** A real WebSocket server on a free port, whose every connection a test takes in hand. */

import type { IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { after } from "node:test";
import { WebSocket, WebSocketServer } from "ws";
import type { SocketConstructor } from "../src/index.js";

/** A frame as it came. */
export type Frame = { readonly [key: string]: unknown };

/** The `ws` client fits what the library needs of a WebSocket; Node.js 20 has none of its own. */
export const webSocket: SocketConstructor = WebSocket;

/** Waits without bound: a test that hangs is ended by the runner, whatever the load of the machine. */
class Inbox<T> {
  private readonly items: T[] = [];
  private readonly takers: ((item: T) => void)[] = [];

  put(item: T): void {
    const taker = this.takers.shift();
    if (taker === undefined) this.items.push(item);
    else taker(item);
  }

  take(): Promise<T> {
    const item = this.items.shift();
    return item === undefined ? new Promise((resolve) => this.takers.push(resolve)) : Promise.resolve(item);
  }

  get size(): number {
    return this.items.length;
  }
}

/** The server's side of one connection. */
export class Peer {
  private readonly frames = new Inbox<Frame>();
  private readonly closed: Promise<number>;
  /** Milliseconds of the monotonic clock. */
  readonly openedAtMs = performance.now();

  constructor(
    private readonly socket: WebSocket,
    readonly request: IncomingMessage,
  ) {
    socket.on("message", (data) => this.frames.put(JSON.parse(String(data)) as Frame));
    this.closed = new Promise((resolve) => socket.on("close", resolve));
  }

  get url(): URL {
    return new URL(this.request.url ?? "", "http://localhost");
  }

  /** The next frame that the client sent. */
  frame(): Promise<Frame> {
    return this.frames.take();
  }

  /** The next frame of `type`; others are skipped. */
  async frameOf(type: string): Promise<Frame> {
    for (;;) {
      const frame = await this.frames.take();
      if (frame["type"] === type) return frame;
    }
  }

  get waitingFrames(): number {
    return this.frames.size;
  }

  send(frame: object | string): void {
    this.socket.send(typeof frame === "string" ? frame : JSON.stringify(frame));
  }

  sendBinary(bytes: Uint8Array): void {
    this.socket.send(bytes);
  }

  close(code: number, reason = ""): void {
    this.socket.close(code, reason);
  }

  /** Breaks the connection without a close frame. */
  cut(): void {
    this.socket.terminate();
  }

  /** The code with which the client closed. */
  closeCode(): Promise<number> {
    return this.closed;
  }
}

/** A server and its connections in order of arrival. */
export class SocketServer {
  private readonly peers = new Inbox<Peer>();

  private constructor(private readonly server: WebSocketServer) {
    server.on("connection", (socket, request) => this.peers.put(new Peer(socket, request)));
  }

  /** Starts one, to be stopped with the test file. */
  static async start(): Promise<SocketServer> {
    const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
    const started = new SocketServer(server);
    await new Promise((resolve) => server.on("listening", resolve));
    after(() => started.stop());
    return started;
  }

  get origin(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  /** The next connection, once its upgrade is done. */
  peer(): Promise<Peer> {
    return this.peers.take();
  }

  get waitingPeers(): number {
    return this.peers.size;
  }

  private stop(): void {
    for (const client of this.server.clients) client.terminate();
    this.server.close();
  }
}

/** A promise of the first value that passes. */
export function first<T>(on: (listener: (value: T) => void) => () => void, passes: (value: T) => boolean = () => true): Promise<T> {
  return new Promise((resolve) => {
    const undo = on((value) => {
      if (!passes(value)) return;
      undo();
      resolve(value);
    });
  });
}
