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
  type SubscriptionSuccessFrame,
} from "../src/index.js";
import { WebSocketServer } from "ws";
import { first, Peer, webSocket, type Frame } from "./socket-server.js";

/** One request for the stream, open until the client or the test ends it. */
interface Asked {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
}

const BEAT = ": beat\n\n";

interface Streams {
  readonly origin: string;
  readonly next: () => Promise<Asked>;
  readonly upgrades: () => number;
  /** As after an outage. */
  readonly letWebSocketsThrough: () => void;
  /** Until then, WebSockets that come through bring nothing by themselves. */
  readonly answerPings: () => void;
  readonly peer: () => Promise<Peer>;
}

/** A server behind a proxy that lets no WebSocket through. Its first streams begin with `begins`, all later ones with a beat. */
async function startStreams({ status = 200, type = "text/event-stream; charset=utf-8", begins = [] as readonly string[] } = {}): Promise<Streams> {
  const waiting: Asked[] = [];
  const takers: ((asked: Asked) => void)[] = [];
  let upgrades = 0;
  let streams = 0;
  const server = createServer((request, response) => {
    response.writeHead(status, { "content-type": type });
    response.flushHeaders();
    if (status === 200) response.write(begins[streams++] ?? BEAT);
    else response.end();
    const taker = takers.shift();
    if (taker === undefined) waiting.push({ request, response });
    else taker({ request, response });
  });
  const sockets = new WebSocketServer({ noServer: true });
  const peers: Peer[] = [];
  const peerTakers: ((peer: Peer) => void)[] = [];
  let isOpen = false;
  let answersPings = false;
  server.on("upgrade", (request, socket, head) => {
    upgrades += 1;
    if (!isOpen) socket.destroy();
    else sockets.handleUpgrade(request, socket, head, (made) => {
      const peer = new Peer(made, request);
      made.on("message", (data) => {
        const { type, timestamp } = JSON.parse(String(data)) as Frame;
        if (answersPings && type === "ping") peer.send({ type: "pong", timestamp });
      });
      const taker = peerTakers.shift();
      if (taker === undefined) peers.push(peer);
      else taker(peer);
    });
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
  const peer = (): Promise<Peer> => {
    const made = peers.shift();
    return made === undefined ? new Promise((resolve) => peerTakers.push(resolve)) : Promise.resolve(made);
  };
  const letWebSocketsThrough = (): void => void (isOpen = true);
  const answerPings = (): void => void (answersPings = true);
  return { letWebSocketsThrough, answerPings, peer, origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, next, upgrades: () => upgrades };
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

/** From where the request continues, by channel. */
function continuedFrom({ request }: Asked): unknown {
  const last = request.headers["last-event-id"];
  return typeof last === "string" ? Object.fromEntries(last.split(",").map((pair) => pair.split("="))) : {};
}

function record(seq: number, channel = "post_1"): string {
  const frame: Frame = { type: "edited", data: { n: seq }, channel, epoch: "e1", seq };
  return `id: ${channel}=e1:${seq}\ndata: ${JSON.stringify(frame)}\n\n`;
}

function write({ response }: Asked, seq: number, channel?: string): void {
  response.write(record(seq, channel));
}

/** The event of that number, once it is delivered. */
function numbered(socket: NotificationsSocket, wanted: number): Promise<NotificationsEvent> {
  return first<NotificationsEvent>((listener) => socket.onEvent(listener), ({ seq }) => seq === wanted);
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

  it("leaves the inbox to a WebSocket's acknowledgements, where these are wanted", async () => {
    const server = await startStreams();
    connect(server.origin, { isAcking: true });
    assert.equal(new URL((await server.next()).request.url ?? "", "http://x").searchParams.get("acks"), "1");
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
    const fifth = numbered(socket, 5);
    write(second, 5);
    await fifth;
    socket.subscribe(["post_2"]);
    const third = await server.next();
    assert.equal(third.request.headers["last-event-id"], "post_1=e1:5");
    const seventh = numbered(socket, 7);
    for (const seq of [5, 6, 7]) write(third, seq);
    await seventh;
    assert.deepEqual(seen, [5, 6, 7]);
  });

  /** A connection that saw event 5 of `user_7`, broke, and is open again by a stream that begins with `begin`. */
  async function resumed(begin: string): Promise<{ socket: NotificationsSocket; seen: unknown[]; next: () => Promise<Asked> }> {
    const { origin, next } = await startStreams({ begins: [BEAT, begin] });
    const socket = connect(origin);
    await inState(socket, ConnectionState.Open);
    const seen: unknown[] = [];
    socket.onEvent(({ seq }) => seen.push(seq));
    const stream = await next();
    const fifth = numbered(socket, 5);
    write(stream, 5, "user_7");
    await fifth;
    stream.response.destroy();
    assert.deepEqual(continuedFrom(await next()), {});
    return { socket, seen, next };
  }

  it("resumes from before the break whatever its first request brings", async () => {
    const { socket, seen, next } = await resumed(BEAT + record(3, "alerts") + record(10, "user_7"));
    const stream = await next();
    assert.deepEqual(continuedFrom(stream), { user_7: "e1:5", alerts: "e1:3" });
    const tenth = numbered(socket, 10);
    for (const seq of [6, 7, 8, 9, 10]) write(stream, seq, "user_7");
    await tenth;
    assert.deepEqual(seen, [5, 3, 6, 7, 8, 9, 10]);
  });

  it("takes where its channels stand from an id without an event, unless it is to resume them from elsewhere", async () => {
    const { socket, seen, next } = await resumed("id: alerts=e1:3,post_3=:0,user_7=e1:9\n\n");
    const stream = await next();
    assert.deepEqual(continuedFrom(stream), { user_7: "e1:5", alerts: "e1:3", post_3: ":0" });
    const sixth = numbered(socket, 6);
    write(stream, 6, "user_7");
    await sixth;
    assert.deepEqual(seen, [5, 6]);
  });

  it("resumes a channel in which nothing has happened from where the stream said that it stood", async () => {
    const quiet = "id: post_1=e1:4,post_2=:0\n\n";
    const server = await startStreams({ begins: [BEAT, quiet] });
    const socket = connect(server.origin);
    await inState(socket, ConnectionState.Open);
    await server.next();
    const told = first<SubscriptionSuccessFrame>((listener) => socket.on("subscription_success", listener));
    socket.subscribe(["post_1", "post_2"]);
    const { response } = await server.next();
    assert.deepEqual((await told).positions, { post_1: { epoch: "e1", offset: 4 }, post_2: { epoch: "", offset: 0 } });
    response.destroy();
    await server.next();
    const again = await server.next();
    assert.deepEqual(continuedFrom(again), { post_1: "e1:4", post_2: ":0" });
    const fifth = numbered(socket, 5);
    write(again, 5);
    await fifth;
  });

  it("resumes what every user has from where the stream said that it stood, without opening it twice to ask", async () => {
    const server = await startStreams({ begins: ["id: alerts=e1:3,user_7=e1:9\n\n"] });
    const socket = connect(server.origin);
    const told: unknown[] = [];
    socket.on("subscription_success", (frame) => told.push(frame));
    await inState(socket, ConnectionState.Open);
    const { response } = await server.next();
    await first((listener) => socket.on("pong", listener));
    response.destroy();
    assert.deepEqual(continuedFrom(await server.next()), {});
    assert.deepEqual(continuedFrom(await server.next()), { alerts: "e1:3", user_7: "e1:9" });
    assert.deepEqual(told, []);
  });

  it("is not opened anew before it has told where its channels stand", async () => {
    const server = await startStreams({ begins: [""] });
    const socket = connect(server.origin);
    const told: unknown[] = [];
    socket.onEvent((event) => told.push(event));
    socket.onIgnored((frame) => told.push(frame));
    await inState(socket, ConnectionState.Open);
    const { response } = await server.next();
    socket.subscribe(["post_2"]);
    // Later than a request that does not wait.
    setTimeout(() => response.write("id: alerts=e1:3,user_7=e1:9\n\n"), 50);
    assert.deepEqual(continuedFrom(await server.next()), { alerts: "e1:3", user_7: "e1:9" });
    assert.deepEqual(told, []);
  });

  it("joins a channel that was left where it stands then, not where it was left", async () => {
    const server = await startStreams({ begins: [BEAT, "", "id: alerts=e1:3,post_2=e1:6\n\n"] });
    const socket = connect(server.origin);
    await inState(socket, ConnectionState.Open);
    await server.next();
    const leave = socket.subscribe(["post_1"]);
    socket.subscribe(["post_2"]);
    const { response } = await server.next();
    leave();
    const left = first((listener) => socket.on("unsubscribed", listener));
    response.write("id: alerts=e1:3,post_1=e1:5,post_2=e1:6\n\n");
    assert.deepEqual(continuedFrom(await server.next()), { alerts: "e1:3", post_2: "e1:6" });
    await left;
    socket.narrowTo(["post_1"]);
    const last = await server.next();
    assert.deepEqual(channelsOf(last), ["alerts", "post_1"]);
    assert.deepEqual(continuedFrom(last), { alerts: "e1:3" });
  });

  it("goes on with the user's own channel where it stands once it is joined again", async () => {
    const stands = "id: alerts=e1:3,user_7=e1:9\n\n";
    const server = await startStreams({ begins: [stands, stands, "id: alerts=e1:3\n\n", stands] });
    const socket = connect(server.origin);
    await inState(socket, ConnectionState.Open);
    await server.next();
    socket.unsubscribe(["notifications", "orders"]);
    // It comes with materials, too.
    assert.deepEqual(continuedFrom(await server.next()), { alerts: "e1:3", user_7: "e1:9" });
    socket.unsubscribe(["materials"]);
    assert.deepEqual(continuedFrom(await server.next()), { alerts: "e1:3" });
    socket.subscribe(["notifications"]);
    assert.deepEqual(continuedFrom(await server.next()), { alerts: "e1:3" });
  });

  it("answers once a stream that has what was asked for lives", async () => {
    const server = await startStreams({ begins: [BEAT, ""] });
    const socket = connect(server.origin);
    await inState(socket, ConnectionState.Open);
    await server.next();
    let isAnswered = false;
    socket.on("subscription_success", () => (isAnswered = true));
    socket.subscribe(["post_1"]);
    const { response } = await server.next();
    assert.equal(isAnswered, false);
    const answer = first((listener) => socket.on("subscription_success", listener));
    response.write(BEAT);
    await answer;
  });

  for (const channels of [[], ["post_1"]]) {
    it(`does not take an empty answer for success, with ${channels.length} channels: attempts count until something arrives`, async () => {
      const server = await startStreams({ begins: Array<string>(9).fill("") });
      const socket = connect(server.origin);
      if (channels.length > 0) socket.subscribe(channels);
      socket.onStatus(({ state }) => {
        if (state === ConnectionState.Open) void server.next().then(({ response }) => response.destroy());
      });
      const attempts: number[] = [];
      await first<ConnectionStatus>((listener) => socket.onStatus(listener), (status) => {
        if (status.state === ConnectionState.Waiting) attempts.push(status.attempt);
        return attempts.length === 6;
      });
      assert.deepEqual(attempts, [1, 2, 3, 4, 5, 6]);
    });
  }

  it("answers after a while where a server sends nothing before its first event", async () => {
    const server = await startStreams({ begins: [""] });
    const socket = connect(server.origin, { heartbeatTimeoutMs: 6_000 });
    // Were it not answered, the connection would break at the first ping.
    await first((listener) => socket.on("pong", listener));
    assert.equal(socket.status.state, ConnectionState.Open);
  });

  it("does not take a page for a stream: attempts count", async () => {
    const server = await startStreams({ type: "text/html" });
    const socket = connect(server.origin);
    const states: ConnectionState[] = [];
    socket.onStatus(({ state }) => states.push(state));
    await first<ConnectionStatus>((listener) => socket.onStatus(listener), (status) => status.state === ConnectionState.Waiting && status.attempt === 4);
    assert.equal(states.includes(ConnectionState.Open), false);
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

  it("gives way to a WebSocket once one opens, and loses and repeats no event", async () => {
    const server = await startStreams({ begins: ["id: alerts=e1:3,user_7=e1:4\n\n"] });
    const socket = connect(server.origin, { upgradeBackoff: { baseMs: 1, capMs: 20 } });
    const seen: unknown[] = [];
    socket.onEvent(({ seq }) => seen.push(seq));
    await inState(socket, ConnectionState.Open);
    const { request, response } = await server.next();
    const fifth = numbered(socket, 5);
    response.write(record(5, "user_7"));
    await fifth;
    const isStreamOver = new Promise((resolve) => request.once("close", resolve));
    const isOpen = inState(socket, ConnectionState.Open);
    server.letWebSocketsThrough();
    const peer = await server.peer();
    const { timestamp } = await peer.frameOf("ping");
    peer.send({ type: "pong", timestamp });
    await isOpen;
    // What waits for the user, the past included, comes before the answer to the client.
    const event = (seq: number): Frame => ({ type: "edited", data: { n: seq }, channel: "user_7", epoch: "e1", seq });
    for (const seq of [4, 5]) peer.send(event(seq));
    assert.deepEqual(await peer.frameOf("resume"), { type: "resume", channel: "user_7", epoch: "e1", seq: 5 });
    assert.deepEqual(await peer.frameOf("resume"), { type: "resume", channel: "alerts", epoch: "e1", seq: 3 });
    const seventh = numbered(socket, 7);
    peer.send({ type: "resumed", channel: "user_7", epoch: "e1", seq: 6, recovered: 1 });
    for (const seq of [6, 7]) peer.send(event(seq));
    peer.send({ type: "pong", timestamp: "now" });
    peer.send({ type: "pong", timestamp: "now" });
    await seventh;
    await isStreamOver;
    assert.deepEqual(seen, [5, 6, 7]);
    const upgrades = server.upgrades();
    await new Promise((resolve) => setTimeout(resolve, 100));
    assert.equal(server.upgrades(), upgrades, "a WebSocket looks for no other");
  });

  it("takes the place of WebSockets that open and bring nothing, and gives way only to one that answers", async () => {
    const server = await startStreams();
    server.letWebSocketsThrough();
    const options = { heartbeatTimeoutMs: 30, connectTimeoutMs: 30, upgradeBackoff: { baseMs: 1, capMs: 1 } };
    const socket = connect(server.origin, options);
    const asked = await server.next();
    assert.equal(server.upgrades(), 2, "two that opened and were silent");
    const live = numbered(socket, 1);
    write(asked, 1, "alerts");
    await live;
    // Mute ones beside it change nothing.
    const states: ConnectionState[] = [];
    socket.onStatus(({ state }) => states.push(state));
    while (server.upgrades() < 6) await new Promise((resolve) => setTimeout(resolve, 5));
    assert.deepEqual(states, []);
    const isOver = new Promise((resolve) => asked.request.once("close", resolve));
    server.answerPings();
    await isOver;
    await new Promise((resolve) => setTimeout(resolve, 100));
    assert.deepEqual(states, [ConnectionState.Authenticating, ConnectionState.Open]);
  });

  it("tries no WebSocket any more once it is closed", async () => {
    const server = await startStreams();
    const socket = connect(server.origin, { upgradeBackoff: { baseMs: 1, capMs: 1 } });
    await inState(socket, ConnectionState.Open);
    while (server.upgrades() < 5) await new Promise((resolve) => setTimeout(resolve, 5));
    socket.close();
    const upgrades = server.upgrades();
    await new Promise((resolve) => setTimeout(resolve, 100));
    assert.ok(server.upgrades() <= upgrades + 1, "one may have been on its way");
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
    const server = await startStreams({ status: 403 });
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
