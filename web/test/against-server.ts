/**
 * The client against a real server, started by the end-to-end tests: `ORIGIN` is its address, `ADA` (user 1), `JOHN` (user 2)
 * and `PUBLISHER` are tokens. Not among `npm test`, which needs no server.
 */

import assert from "node:assert/strict";
import { after, it } from "node:test";
import { WebSocket } from "ws";
import {
  ConnectionState,
  NotificationsSocket,
  PresenceSocket,
  type AlertFrame,
  type ChatFrame,
  type ConnectionStatus,
  type CustomEventFrame,
  type NotificationFrame,
  type PresenceFrame,
  type SocketConstructor,
  type SubscriptionSuccessFrame,
  type TypingFrame,
  type UserStatusFrame,
} from "../src/index.js";
import { first, webSocket } from "./socket-server.js";

function given(name: string): string {
  const value = process.env[name];
  if (value === undefined) throw new Error(`${name} is not set: the end-to-end tests start this`);
  return value;
}

const origin = given("ORIGIN");
const [ADA, JOHN, PUBLISHER] = [given("ADA"), given("JOHN"), given("PUBLISHER")];

/** Longer than a test: a connection comes back when the test says so. */
const PAUSE = { baseMs: 3_600_000, capMs: 3_600_000 };

async function publish(event: object): Promise<void> {
  const headers = { Authorization: `Bearer ${PUBLISHER}`, "Content-Type": "application/json" };
  const answer = await fetch(`${origin}/api/v1/publish`, { method: "POST", headers, body: JSON.stringify(event) });
  assert.equal(answer.status, 201, await answer.text());
}

const edited = (channel: string, n: number): object => ({ type: "edited", channel, data: { n } });

/** WebSockets that a test can cut. */
function cuttable(): { webSocket: SocketConstructor; cut: () => void } {
  let last: WebSocket | null = null;
  const webSocket = class extends WebSocket {
    constructor(url: string) {
      super(url);
      last = this;
    }
  };
  return { webSocket, cut: () => last?.terminate() };
}

/** A network that lets no WebSocket through. */
const blocked: SocketConstructor = class extends WebSocket {
  constructor() {
    super("ws://127.0.0.1:1/");
  }
};

async function inState(socket: NotificationsSocket | PresenceSocket, wanted: ConnectionState): Promise<void> {
  if (socket.status.state === wanted) return;
  await first<ConnectionStatus>((listener) => socket.onStatus(listener), ({ state }) => state === wanted);
}

/** The numbers of the custom events as they come, and a promise of each length of that list. */
function numbers(socket: NotificationsSocket): { seen: number[]; reach: (length: number) => Promise<void> } {
  const seen: number[] = [];
  let check = (): void => undefined;
  socket.on("custom", (event: CustomEventFrame) => {
    seen.push((event.data as { n: number }).n);
    check();
  });
  const reach = (length: number): Promise<void> =>
    new Promise((resolve) => {
      check = () => {
        if (seen.length >= length) resolve();
      };
      check();
    });
  return { seen, reach };
}

async function subscribe(socket: NotificationsSocket, channels: readonly string[]): Promise<SubscriptionSuccessFrame> {
  const answer = first<SubscriptionSuccessFrame>((listener) => socket.on("subscription_success", listener));
  socket.subscribe(channels);
  return await answer;
}

it("notifications, alerts and custom events arrive over a WebSocket", async () => {
  const socket = new NotificationsSocket({ token: ADA, origin, webSocket });
  after(() => socket.close());
  const ignored: unknown[] = [];
  socket.onIgnored((frame) => ignored.push(frame));
  socket.connect();
  await inState(socket, ConnectionState.Open);
  assert.deepEqual((await subscribe(socket, ["post_1", "user_2"])).rejected, [{ channel: "user_2", reason: "forbidden" }]);
  const notification = first<NotificationFrame>((listener) => socket.on("notification", listener));
  const alert = first<AlertFrame>((listener) => socket.on("alert", listener));
  const custom = first<CustomEventFrame>((listener) => socket.on("custom", listener));
  const at = "2025-10-22T10:00:00.000Z";
  await publish({ type: "notification", user_id: 1, data: { id: 7, type: "mention", title: "t", content: "c", created_at: at } });
  const data = { id: "5", title: "t", content: "c", severity: "critical", status: "active", created_at: at };
  await publish({ type: "alert", data });
  await publish(edited("post_1", 1));
  assert.deepEqual([(await notification).data.id, (await notification).data.is_read], ["7", false]);
  assert.equal((await alert).data.severity, "critical");
  const { name, channel, timestamp } = await custom;
  assert.deepEqual([name, channel, timestamp?.endsWith("Z")], ["edited", "post_1", true]);
  assert.deepEqual(ignored, []);
});

it("an alert of a break comes, though none was seen before", async () => {
  const { webSocket, cut } = cuttable();
  const socket = new NotificationsSocket({ token: JOHN, origin, webSocket, backoff: PAUSE });
  after(() => socket.close());
  const titles: string[] = [];
  const told = first<AlertFrame>((listener) => socket.on("alert", listener));
  socket.on("alert", (alert: AlertFrame) => titles.push(alert.data.title));
  socket.connect();
  await inState(socket, ConnectionState.Open);
  // Answered behind what the client asks for by itself.
  await subscribe(socket, ["post_1"]);
  cut();
  await inState(socket, ConnectionState.Waiting);
  await publish({ type: "alert", data: { id: "6", title: "in the break", content: "c" } });
  socket.reconnectNow();
  await told;
  assert.deepEqual(titles, ["in the break"]);
});

it("what was missed during a break comes once and in order, in a channel too that had told nothing yet", async () => {
  const { webSocket, cut } = cuttable();
  const socket = new NotificationsSocket({ token: ADA, origin, webSocket, backoff: PAUSE });
  after(() => socket.close());
  socket.connect();
  await inState(socket, ConnectionState.Open);
  const { seen, reach } = numbers(socket);
  const { positions } = await subscribe(socket, ["post_busy", "post_quiet"]);
  assert.deepEqual(positions?.["post_quiet"], { epoch: "", offset: 0 });
  await publish(edited("post_busy", 1));
  await reach(1);
  for (const round of [1, 2]) {
    cut();
    await inState(socket, ConnectionState.Waiting);
    await publish(edited("post_busy", round * 10));
    await publish(edited("post_quiet", round * 10 + 1));
    await publish(edited("post_quiet", round * 10 + 2));
    socket.reconnectNow();
    await reach(1 + round * 3);
  }
  await publish(edited("post_quiet", 30));
  await reach(8);
  const of = (wanted: readonly number[]): number[] => seen.filter((n) => wanted.includes(n));
  assert.deepEqual(of([1, 10, 20]), [1, 10, 20]);
  assert.deepEqual(of([11, 12, 21, 22, 30]), [11, 12, 21, 22, 30]);
  assert.equal(seen.length, 8);
});

it("events arrive by the event stream where no WebSocket comes through, without a gap where it is opened anew", async () => {
  const socket = new NotificationsSocket({ token: JOHN, origin, webSocket: blocked, backoff: { baseMs: 1, capMs: 1 } });
  after(() => socket.close());
  socket.connect();
  await inState(socket, ConnectionState.Open);
  const { seen, reach } = numbers(socket);
  socket.subscribe(["post_3"]);
  // The stream is opened anew with the channel: when that is done is seen by what arrives.
  let published = 0;
  while (seen.length === 0) await publish(edited("post_3", ++published));
  const began = seen[0] ?? 0;
  socket.subscribe(["post_4"]);
  for (let more = 0; more < 5; more++) await publish(edited("post_3", ++published));
  await reach(published - began + 1);
  assert.deepEqual(seen, Array.from({ length: published - began + 1 }, (_, at) => began + at));
  const notification = first<NotificationFrame>((listener) => socket.on("notification", listener));
  await publish({ type: "notification", user_id: 2, data: { id: 8, type: "mention", title: "t", content: "c" } });
  assert.equal((await notification).data.id, "8");
});

it("users see each other come, type, write and go", async () => {
  const enter = async (token: string): Promise<PresenceSocket> => {
    const socket = new PresenceSocket({ token, origin, webSocket });
    after(() => socket.close());
    socket.connect();
    await inState(socket, ConnectionState.Open);
    // The server reads messages once everything that it greeted with is in place.
    const answer = first((listener) => socket.on("history", listener));
    assert.ok(socket.requestHistory("post_1", 1));
    await answer;
    return socket;
  };
  const ada = await enter(ADA);
  assert.equal(ada.onlineCount, 1);
  const came = first<UserStatusFrame>((listener) => ada.on("user_status", listener));
  const john = await enter(JOHN);
  assert.deepEqual([(await came).data.user_id, (await came).data.status, ada.onlineCount], [2, "online", 2]);
  const typing = first<TypingFrame>((listener) => john.on("typing", listener));
  assert.ok(ada.sendTyping(true, "post_1"));
  assert.deepEqual((await typing).data, { user_id: 1, is_typing: true, context: "post_1" });
  const presence = first<PresenceFrame>((listener) => john.on("presence", listener));
  ada.setPresence("busy", "desktop");
  assert.deepEqual((await presence).data, { user_id: 1, status: "busy", data: { device: "desktop" } });
  const chat = first<ChatFrame>((listener) => john.on("chat", listener));
  assert.ok(ada.sendMessage(2, "Hello ☕"));
  assert.deepEqual([(await chat).data.from_user_id, (await chat).data.message], [1, "Hello ☕"]);

  const went = first<UserStatusFrame>((listener) => ada.on("user_status", listener));
  john.close();
  assert.deepEqual([(await went).data.status, ada.onlineCount], ["offline", 1]);
  assert.ok(ada.sendMessage(2, "later"));
  const later = first<ChatFrame>((listener) => john.on("chat", listener));
  john.connect();
  assert.equal((await later).data.message, "later");
});
