import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { after, describe, it } from "node:test";
import {
  ClosedBecause,
  ConnectionState,
  NotificationsSocket,
  type ConnectionStatus,
  type NotificationsEvent,
  type NotificationsOptions,
} from "../src/index.js";
import { first, webSocket, type Frame } from "./socket-server.js";

/** One request for the stream, open until the client or the test ends it. */
interface Asked {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
}

/** A server behind a proxy that lets no WebSocket through. */
async function startStreams(status = 200): Promise<{ origin: string; next: () => Promise<Asked>; upgrades: () => number }> {
  const waiting: Asked[] = [];
  const takers: ((asked: Asked) => void)[] = [];
  let upgrades = 0;
  const server = createServer((request, response) => {
    response.writeHead(status, { "content-type": "text/event-stream" });
    if (status === 200) response.write(": beat\n\n");
    else response.end();
    const taker = takers.shift();
    if (taker === undefined) waiting.push({ request, response });
    else taker({ request, response });
  });
  server.on("upgrade", (_, socket) => {
    upgrades += 1;
    socket.destroy();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  after(() => {
    server.closeAllConnections();
    server.close();
  });
  const next = (): Promise<Asked> => {
    const asked = waiting.shift();
    return asked === undefined ? new Promise((resolve) => takers.push(resolve)) : Promise.resolve(asked);
  };
  return { origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, next, upgrades: () => upgrades };
}

function connect(origin: string, options: Partial<NotificationsOptions> = {}): NotificationsSocket {
  const socket = new NotificationsSocket({ token: "Bearer a.b", origin, webSocket, backoff: { baseMs: 1, capMs: 1 }, ...options });
  after(() => socket.close());
  socket.connect();
  return socket;
}

function inState(socket: NotificationsSocket, wanted: ConnectionState): Promise<ConnectionStatus> {
  return first<ConnectionStatus>((listener) => socket.onStatus(listener), ({ state }) => state === wanted);
}

function channelsOf({ request }: Asked): readonly string[] {
  return (new URL(request.url ?? "", "http://x").searchParams.get("channels") ?? "").split(",");
}

function write({ response }: Asked, seq: number, channel = "post_1"): void {
  const frame: Frame = { type: "edited", data: { n: seq }, channel, epoch: "e1", seq };
  response.write(`id: ${channel}=e1:${seq}\ndata: ${JSON.stringify(frame)}\n\n`);
}

describe("the event stream in place of a WebSocket", () => {
  it("is used after two WebSockets that did not open, with the token in a header", async () => {
    const server = await startStreams();
    const socket = connect(server.origin);
    await inState(socket, ConnectionState.Open);
    const asked = await server.next();
    assert.equal(server.upgrades(), 2);
    assert.equal(asked.request.headers.authorization, "Bearer a.b");
    assert.equal((asked.request.url ?? "").includes("a.b"), false);
    assert.deepEqual(channelsOf(asked), ["notifications", "alerts", "orders", "materials"]);
    const event = first<NotificationsEvent>((listener) => socket.onEvent(listener));
    asked.response.write('data: {"type":"alert","data":{"id":"1","title":"t","content":"c","severity":"critical","status":"s","created_at":"now"}}\n\n');
    assert.equal((await event).type, "alert");
  });

  it("joins channels by a new request that continues where the last one was", async () => {
    const server = await startStreams();
    const socket = connect(server.origin);
    await inState(socket, ConnectionState.Open);
    await server.next();
    const seen: unknown[] = [];
    socket.onEvent(({ seq }) => seen.push(seq));
    socket.subscribe(["post_1"], { epoch: "e1", seq: 4 });
    const second = await server.next();
    assert.ok(channelsOf(second).includes("post_1"));
    assert.equal(second.request.headers["last-event-id"], "post_1=e1:4");
    const fifth = first<NotificationsEvent>((listener) => socket.onEvent(listener), ({ seq }) => seq === 5);
    write(second, 5);
    await fifth;
    socket.subscribe(["post_2"]);
    const third = await server.next();
    assert.equal(third.request.headers["last-event-id"], "post_1=e1:5");
    const seventh = first<NotificationsEvent>((listener) => socket.onEvent(listener), ({ seq }) => seq === 7);
    for (const seq of [5, 6, 7]) write(third, seq);
    await seventh;
    assert.deepEqual(seen, [5, 6, 7]);
  });

  it("tries a WebSocket again when the stream breaks, and then the stream", async () => {
    const server = await startStreams();
    const socket = connect(server.origin);
    await inState(socket, ConnectionState.Open);
    const { response } = await server.next();
    const lost = inState(socket, ConnectionState.Waiting);
    response.destroy();
    await lost;
    await inState(socket, ConnectionState.Open);
    assert.equal(server.upgrades(), 3);
  });

  it("ends as a WebSocket would where the server says why", async () => {
    const server = await startStreams();
    const socket = connect(server.origin);
    await inState(socket, ConnectionState.Open);
    const { response } = await server.next();
    const closed = inState(socket, ConnectionState.Closed);
    response.write('event: close\ndata: {"code":1000,"reason":"signed out"}\n\n');
    const status = await closed;
    assert.ok(status.state === ConnectionState.Closed && status.because === ClosedBecause.Ended);
  });

  it("is given up where the server refuses", async () => {
    const server = await startStreams(403);
    const socket = connect(server.origin);
    const status = await inState(socket, ConnectionState.Closed);
    assert.ok(status.state === ConnectionState.Closed && status.close?.code === 4003);
  });

  it("is not used where it is not wanted", async () => {
    const server = await startStreams();
    const socket = connect(server.origin, { hasEventStream: false });
    await first<ConnectionStatus>((listener) => socket.onStatus(listener), (status) => status.state === ConnectionState.Waiting && status.attempt === 4);
    assert.equal(socket.status.state, ConnectionState.Waiting);
    assert.ok(server.upgrades() >= 4);
  });
});
