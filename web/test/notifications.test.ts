import assert from "node:assert/strict";
import { after, describe, it } from "node:test";
import {
  ClosedBecause,
  ConnectionState,
  NotificationsSocket,
  type AlertFrame,
  type ConnectionStatus,
  type HistoryFrame,
  type NotificationsEvent,
  type NotificationsOptions,
} from "../src/index.js";
import { clientFixture, FIXTURES, serverFixture } from "./fixtures.js";
import { first, SocketServer, webSocket, type Frame, type Peer } from "./socket-server.js";

const server = await SocketServer.start();
const DEFAULTS = { token: "Bearer a.b+c", origin: server.origin, webSocket, backoff: { baseMs: 1, capMs: 1 } };

async function opened(options: Partial<NotificationsOptions> = {}): Promise<{ socket: NotificationsSocket; peer: Peer }> {
  const socket = new NotificationsSocket({ ...DEFAULTS, ...options });
  after(() => socket.close());
  socket.connect();
  return { socket, peer: await opening(socket) };
}

/** What every user gets without asking, and `left` that was taken away. */
function implicitBut(...left: readonly string[]): readonly string[] {
  return ["notifications", "alerts", "orders", "materials"].filter((channel) => !left.includes(channel));
}

/** The next connection, once the socket knows that it is open and has asked where `asked` stand. */
async function opening(socket: NotificationsSocket, asked = implicitBut()): Promise<Peer> {
  const peer = await server.peer();
  if (asked.length > 0) assert.deepEqual(await peer.frame(), { type: "subscribe", channels: asked });
  if (socket.status.state !== ConnectionState.Open) {
    await first<ConnectionStatus>((listener) => socket.onStatus(listener), ({ state }) => state === ConnectionState.Open);
  }
  return peer;
}

function edited(seq: number, channel = "post_123", epoch = "e1"): Frame {
  return { type: "edited", data: { by: seq }, channel, epoch, seq };
}

/** Everything sent before this and delivered to `socket`, as sequence numbers. */
async function delivered(socket: NotificationsSocket, peer: Peer, frames: readonly Frame[]): Promise<unknown[]> {
  const seen: unknown[] = [];
  const undo = socket.onEvent(({ seq }) => seen.push(seq));
  const done = first((listener) => socket.on("pong", listener));
  for (const frame of frames) peer.send(frame);
  peer.send({ type: "pong", timestamp: "end" });
  await done;
  undo();
  return seen;
}

describe("NotificationsSocket", () => {
  it("carries the bare token in the URL and pings as in the fixture, with the time", async () => {
    const { peer } = await opened();
    assert.equal(peer.url.pathname, "/ws/notifications/");
    assert.equal(peer.url.searchParams.get("token"), "a.b+c");
    assert.equal(peer.url.searchParams.get("positions"), "1");
    const { timestamp, ...ping } = await peer.frame();
    assert.deepEqual(ping, clientFixture("n_client_ping"));
    assert.ok(Math.abs(Date.parse(String(timestamp)) - Date.now()) < 60_000);
  });

  it("delivers every event of the fixtures to its listener", async () => {
    const { socket, peer } = await opened();
    const events = FIXTURES.filter(({ direction, dialect, frame }) => direction === "server" && dialect === "N" && "data" in frame);
    assert.equal(events.length, 4);
    const seen: NotificationsEvent[] = [];
    socket.onEvent((event) => seen.push(event));
    const alert = first((listener) => socket.on("alert", listener));
    await delivered(socket, peer, events.map(({ frame }) => frame));
    assert.deepEqual(seen, events.map(({ frame }) => frame));
    assert.deepEqual(await alert, serverFixture("n_server_alert"));
  });

  it("subscribes, and its undo unsubscribes, as in the fixtures", async () => {
    const { socket, peer } = await opened();
    socket.subscribe(["notifications", "alerts", "orders"]);
    assert.deepEqual(await peer.frameOf("subscribe"), clientFixture("n_client_subscribe"));
    const undo = socket.subscribe(["post_123"], { epoch: "3f9c0a1b2d4e", seq: 41 });
    assert.deepEqual(await peer.frameOf("subscribe"), clientFixture("x_client_subscribe_since"));
    undo();
    undo();
    assert.deepEqual(await peer.frameOf("unsubscribe"), clientFixture("x_client_unsubscribe"));
    socket.narrowTo(["alerts"]);
    assert.deepEqual(await peer.frameOf("subscribe"), clientFixture("x_client_subscribe_replace"));
  });

  it("sends the extension frames of the fixtures", async () => {
    const { socket, peer } = await opened();
    socket.resume({ epoch: "3f9c0a1b2d4e", seq: 41 });
    assert.deepEqual(await peer.frameOf("resume"), clientFixture("x_client_resume"));
    socket.ack(42);
    assert.deepEqual(await peer.frameOf("ack"), clientFixture("x_client_ack"));
    socket.requestHistory("post_123", 10);
    assert.deepEqual(await peer.frameOf("history"), clientFixture("x_client_history"));
    const history = first<HistoryFrame<NotificationsEvent>>((listener) => socket.on("history", listener));
    peer.send(serverFixture("x_server_history"));
    assert.equal((await history).events[0]?.type, "custom");
  });

  it("resumes the user's own channel where no channel is named, also from before what was delivered", async () => {
    const { socket, peer } = await opened();
    const own = (seq: number): Frame => edited(seq, "user_7");
    assert.deepEqual(await delivered(socket, peer, [own(5), own(6)]), [5, 6]);
    socket.resume({ epoch: "e1", seq: 4 });
    assert.deepEqual(await peer.frameOf("resume"), { type: "resume", channel: "user_7", epoch: "e1", seq: 4 });
    const { timestamp } = await peer.frameOf("ping");
    // 7 is published while the server still reads what was missed.
    const resumed = { type: "resumed", channel: "user_7", epoch: "e1", seq: 6, recovered: 2 };
    assert.deepEqual(await delivered(socket, peer, [own(7), resumed, own(5), own(6), { type: "pong", timestamp }]), [5, 6, 7]);
  });

  it("stays on a channel until the last one who asked has left", async () => {
    const { socket, peer } = await opened();
    const undos = [socket.subscribe(["c"]), socket.subscribe(["c", "d"])];
    undos[0]?.();
    undos[1]?.();
    assert.deepEqual(await peer.frameOf("unsubscribe"), { type: "unsubscribe", channels: ["c", "d"] });
  });

  it("does not take away what a user gets anyway, unless told so, and then after a break too", async () => {
    const { socket, peer } = await opened();
    socket.subscribe(["alerts", "c"])();
    assert.deepEqual(await peer.frameOf("unsubscribe"), { type: "unsubscribe", channels: ["c"] });
    socket.unsubscribe(["orders"]);
    assert.deepEqual(await peer.frameOf("unsubscribe"), { type: "unsubscribe", channels: ["orders"] });
    peer.cut();
    const again = await opening(socket, implicitBut("orders"));
    assert.deepEqual(await again.frameOf("unsubscribe"), { type: "unsubscribe", channels: ["orders"] });
    socket.subscribe(["orders"]);
    again.cut();
    const last = await opening(socket);
    assert.deepEqual(await last.frame(), { type: "subscribe", channels: ["orders"] });
  });

  it("remembers what was subscribed before it was open", async () => {
    const socket = new NotificationsSocket(DEFAULTS);
    after(() => socket.close());
    socket.subscribe(["early"]);
    socket.connect();
    const peer = await opening(socket);
    assert.deepEqual(await peer.frameOf("subscribe"), { type: "subscribe", channels: ["early"] });
  });

  it("subscribes again after a break, each channel from where it was", async () => {
    const { socket, peer } = await opened();
    socket.subscribe(["post_123", "quiet"]);
    assert.deepEqual(await delivered(socket, peer, [edited(7), edited(8)]), [7, 8]);
    peer.cut();
    const again = await opening(socket);
    assert.deepEqual(await again.frameOf("subscribe"), { type: "subscribe", channels: ["quiet"] });
    assert.deepEqual(await again.frameOf("subscribe"), {
      type: "subscribe",
      channels: ["post_123"],
      since: { epoch: "e1", offset: 8 },
    });
    assert.deepEqual(await delivered(socket, again, [edited(8), edited(9)]), [9]);
  });

  it("subscribes many channels again with one message, each from its own point", async () => {
    const { socket, peer } = await opened();
    socket.subscribe(["a", "b"]);
    await delivered(socket, peer, [edited(7, "a"), edited(3, "b"), edited(2, "user_1")]);
    peer.cut();
    const again = await opening(socket);
    const since = { a: { epoch: "e1", offset: 7 }, b: { epoch: "e1", offset: 3 } };
    assert.deepEqual(await again.frame(), { type: "subscribe", channels: ["a", "b"], since });
    assert.deepEqual(await again.frame(), { type: "resume", channel: "user_1", epoch: "e1", seq: 2 });
    assert.equal((await again.frame())["type"], "ping");
  });

  it("resumes a channel that told no event yet from where it stood when it was joined", async () => {
    const { socket, peer } = await opened();
    const undo = socket.subscribe(["quiet", "new", "left"]);
    await peer.frameOf("subscribe");
    undo();
    socket.subscribe(["quiet", "new"]);
    const positions = { quiet: { epoch: "e1", offset: 8 }, new: { epoch: "", offset: 0 }, left: { epoch: "e1", offset: 2 } };
    const welcome = { type: "subscription_success", channels: ["quiet", "new", "left"], positions };
    assert.deepEqual(await delivered(socket, peer, [welcome]), []);
    peer.cut();
    const again = await opening(socket);
    const since = { quiet: { epoch: "e1", offset: 8 }, new: { epoch: "", offset: 0 } };
    assert.deepEqual(await again.frame(), { type: "subscribe", channels: ["quiet", "new"], since });
    // Told where they stand now, with what was missed on its way: that is behind the place to resume from.
    const now = { quiet: { epoch: "e1", offset: 10 }, new: { epoch: "e1", offset: 1 } };
    const resumed = { type: "resumed", channel: "quiet", epoch: "e1", seq: 10, recovered: 2 };
    const answer = [{ ...welcome, positions: now }, resumed, edited(9, "quiet")];
    assert.deepEqual(await delivered(socket, again, answer), [9]);
    again.cut();
    const last = await opening(socket);
    const after9 = { quiet: { epoch: "e1", offset: 9 }, new: { epoch: "", offset: 0 } };
    assert.deepEqual(await last.frame(), { type: "subscribe", channels: ["quiet", "new"], since: after9 });
  });

  it("resumes channels that it has without asking", async () => {
    const { socket, peer } = await opened();
    assert.deepEqual(await delivered(socket, peer, [edited(3, "user_1")]), [3]);
    peer.close(4010, "slow consumer");
    const again = await opening(socket);
    assert.deepEqual(await again.frameOf("resume"), { type: "resume", channel: "user_1", epoch: "e1", seq: 3 });
    again.send({ type: "resume_failed", channel: "user_1", epoch: "e2", seq: 90, reason: "history_lost" });
    assert.deepEqual(await delivered(socket, again, [edited(91, "user_1", "e2")]), [91]);
    // Asked for after the replay: what is live from here on does not wait.
    again.send(serverFixture("n_server_pong"));
    assert.deepEqual(await delivered(socket, again, [edited(92, "user_1", "e2")]), [92]);
  });

  it("resumes what every user has from where it stood, with no event seen and no answer told", async () => {
    const { socket, peer } = await opened();
    const told: unknown[] = [];
    socket.on("subscription_success", (frame) => told.push(frame));
    socket.subscribe(["alerts"]);
    const positions = { alerts: { epoch: "e1", offset: 4 }, orders: { epoch: "", offset: 0 } };
    const own = { type: "subscription_success", channels: implicitBut(), positions };
    const asked = { type: "subscription_success", channels: ["alerts"] };
    await delivered(socket, peer, [own, asked, own]);
    // Asked once: the next one of the kind is an answer to the application.
    assert.deepEqual(told, [asked, own]);
    peer.cut();
    const again = await opening(socket);
    assert.deepEqual(await again.frame(), { type: "subscribe", channels: ["alerts"] });
    assert.deepEqual(await again.frame(), { type: "resume", channel: "alerts", epoch: "e1", seq: 4 });
    assert.deepEqual(await again.frame(), { type: "resume", channel: "orders", epoch: "", seq: 0 });
    const later = { ...own, positions: { alerts: { epoch: "e1", offset: 6 } } };
    const resumed = { type: "resumed", channel: "alerts", epoch: "e1", seq: 6, recovered: 2 };
    assert.deepEqual(await delivered(socket, again, [later, resumed, edited(5, "alerts"), edited(6, "alerts")]), [5, 6]);
  });

  it("asks where alerts stand and nothing else once it is narrowed, and does not note what it was narrowed from", async () => {
    const { socket, peer } = await opened();
    socket.narrowTo(["kept"]);
    const positions = { orders: { epoch: "e1", offset: 4 } };
    await delivered(socket, peer, [{ type: "subscription_success", channels: implicitBut(), positions }]);
    peer.cut();
    const again = await opening(socket, ["alerts"]);
    assert.deepEqual(await again.frame(), { type: "subscribe", channels: ["kept"], mode: "replace" });
    assert.equal((await again.frame())["type"], "ping");
    const told: unknown[] = [];
    socket.on("subscription_success", ({ channels }) => told.push(channels));
    const alerts = { alerts: { epoch: "e1", offset: 4 } };
    const answer = { type: "subscription_success", channels: ["alerts"], positions: alerts };
    await delivered(socket, again, [answer, { type: "subscription_success", channels: ["kept"] }]);
    assert.deepEqual(told, [["kept"]]);
    again.cut();
    const last = await opening(socket, ["alerts"]);
    assert.deepEqual(await last.frameOf("resume"), { type: "resume", channel: "alerts", epoch: "e1", seq: 4 });
  });

  it("puts the missed events before those that came meanwhile", async () => {
    const { socket, peer } = await opened();
    assert.deepEqual(await delivered(socket, peer, [edited(3, "user_1")]), [3]);
    peer.cut();
    const again = await opening(socket);
    await again.frameOf("resume");
    const resumed = { type: "resumed", channel: "user_1", epoch: "e1", seq: 6, recovered: 3 };
    const missed = [4, 5, 6].map((seq) => edited(seq, "user_1"));
    assert.deepEqual(await delivered(socket, again, [edited(7, "user_1"), resumed, ...missed]), [4, 5, 6, 7]);
  });

  it("tells that the rest is lost where more comes meanwhile than it holds back, and goes on in order", async () => {
    const { socket, peer } = await opened();
    assert.deepEqual(await delivered(socket, peer, [edited(3, "user_1")]), [3]);
    peer.cut();
    const again = await opening(socket);
    await again.frameOf("resume");
    const live = Array.from({ length: 10_002 }, (_, index) => 7 + index);
    const order: unknown[] = [];
    socket.on("resume_failed", (frame) => order.push(frame));
    socket.onEvent(({ seq }) => order.push(seq));
    const resumed = { type: "resumed", channel: "user_1", epoch: "e1", seq: 6, recovered: 3 };
    const seqs = [4, ...live, 5, 6, 10_009];
    await delivered(socket, again, [resumed, ...seqs.map((seq) => edited(seq, "user_1"))]);
    const failure = { type: "resume_failed", channel: "user_1", epoch: "e1", seq: 6, reason: "overflow" };
    assert.deepEqual(order, [4, failure, ...live, 10_009]);
    again.cut();
    const last = await opening(socket);
    assert.deepEqual(await last.frameOf("resume"), { type: "resume", channel: "user_1", epoch: "e1", seq: 10_009 });
  });

  it("resumes only what it was narrowed to and what every user has", async () => {
    const { socket, peer } = await opened();
    socket.subscribe(["left", "kept"]);
    const events = ["left", "kept", "user_1", "alerts", "orders"].map((channel) => edited(4, channel));
    await delivered(socket, peer, events);
    socket.narrowTo(["kept"]);
    // It was on its way.
    await delivered(socket, peer, [edited(5, "left")]);
    peer.cut();
    const again = await opening(socket, ["alerts"]);
    const since = { epoch: "e1", offset: 4 };
    assert.deepEqual(await again.frame(), { type: "subscribe", channels: [], mode: "replace" });
    assert.deepEqual(await again.frame(), { type: "subscribe", channels: ["kept"], since });
    assert.deepEqual(await again.frame(), { type: "resume", channel: "user_1", epoch: "e1", seq: 4 });
    assert.deepEqual(await again.frame(), { type: "resume", channel: "alerts", epoch: "e1", seq: 4 });
    assert.equal((await again.frame())["type"], "ping");
  });

  it("replays nothing of the time that a channel was narrowed away", async () => {
    const { socket, peer } = await opened();
    socket.subscribe(["a"]);
    await delivered(socket, peer, [edited(4, "a"), edited(4, "orders")]);
    socket.narrowTo([]);
    socket.subscribe(["a", "orders"]);
    peer.cut();
    const again = await opening(socket, ["alerts", "orders"]);
    assert.deepEqual(await again.frame(), { type: "subscribe", channels: ["a", "orders"], mode: "replace" });
    assert.equal((await again.frame())["type"], "ping");
  });

  it("delivers nothing twice, and starts anew with a new epoch", async () => {
    const { socket, peer } = await opened();
    const frames = [edited(1), edited(2), edited(1), edited(2), edited(1, "other"), edited(1, "post_123", "e2")];
    assert.deepEqual(await delivered(socket, peer, frames), [1, 2, 1, 1]);
  });

  it("acknowledges after the listeners have run, and again what comes again", async () => {
    const { socket, peer } = await opened({ isAcking: true });
    assert.equal(peer.url.searchParams.get("acks"), "1");
    const order: string[] = [];
    socket.onEvent(({ seq }) => order.push(`heard ${seq}`));
    // Channels that are no inbox wait for no acknowledgement.
    peer.send(edited(7, "post_123"));
    peer.send(edited(1, "user_1"));
    assert.deepEqual(await peer.frameOf("ack"), { type: "ack", channel: "user_1", seq: 1 });
    assert.deepEqual(order, ["heard 7", "heard 1"]);
    peer.send(edited(1, "user_1"));
    assert.deepEqual(await peer.frameOf("ack"), { type: "ack", channel: "user_1", seq: 1 });
    assert.deepEqual(order, ["heard 7", "heard 1"]);
    peer.send(serverFixture("n_server_alert"));
    // What comes in one moment is acknowledged at once.
    for (const seq of [2, 3, 4]) peer.send(edited(seq, "user_1"));
    assert.equal((await peer.frameOf("ack"))["seq"], 4);
  });

  it("hands a fresh token over in place", async () => {
    const { socket, peer } = await opened({ token: ({ isRefresh }) => (isRefresh ? "new" : "old") });
    const authenticated = first((listener) => socket.on("authenticated", listener));
    assert.equal(await socket.refreshToken(), true);
    assert.deepEqual(await peer.frameOf("authenticate"), { type: "authenticate", token: "new" });
    peer.send({ type: "authenticated", expires_at: 1761127200 });
    await authenticated;
  });

  it("takes an alert without a severity for an alert", async () => {
    const { socket, peer } = await opened();
    const alert = first<AlertFrame>((listener) => socket.on("alert", listener));
    peer.send({ type: "alert", data: { title: "disk", severity: null, room: 5 } });
    const data = { id: "", title: "disk", content: "", severity: "", status: "", created_at: "", room: 5 };
    assert.deepEqual((await alert).data, data);
  });

  it("gives up when even a fresh token is refused after the upgrade", async () => {
    const socket = new NotificationsSocket({ ...DEFAULTS, token: () => "t" });
    const closed = first<ConnectionStatus>((listener) => socket.onStatus(listener), ({ state }) => state === ConnectionState.Closed);
    socket.connect();
    (await server.peer()).close(4001, "token_expired");
    (await server.peer()).close(4001, "token_expired");
    const status = await closed;
    assert.ok(status.state === ConnectionState.Closed);
    assert.equal(status.because, ClosedBecause.Unauthenticated);
  });

  it("does not take an open socket for success: attempts count until something arrives", async () => {
    const { socket, peer } = await opened();
    const attempts: number[] = [];
    socket.onStatus((status) => {
      if (status.state === ConnectionState.Waiting) attempts.push(status.attempt);
    });
    peer.close(1013, "");
    (await server.peer()).close(1013, "");
    const last = await opening(socket);
    await delivered(socket, last, []);
    last.cut();
    await server.peer();
    assert.deepEqual(attempts, [1, 2, 1]);
  });
});
