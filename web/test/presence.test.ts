import assert from "node:assert/strict";
import { after, describe, it } from "node:test";
import { PresenceSocket, type PresenceOptions, type PresenceServerFrame } from "../src/index.js";
import { clientFixture, FIXTURES, serverFixture } from "./fixtures.js";
import { first, SocketServer, webSocket, type Frame, type Peer } from "./socket-server.js";

const server = await SocketServer.start();
const DEFAULTS = { token: "jwt", origin: server.origin, webSocket, backoff: { baseMs: 1, capMs: 1 } };
const ISO_WITH_MS = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

async function opened(options: Partial<PresenceOptions> = {}): Promise<{ socket: PresenceSocket; peer: Peer }> {
  const socket = new PresenceSocket({ ...DEFAULTS, ...options });
  after(() => socket.close());
  const connected = first((listener) => socket.on("connected", listener));
  socket.connect();
  const peer = await server.peer();
  peer.send(serverFixture("p_server_connected"));
  await connected;
  return { socket, peer };
}

/** `frame` with the fixture's timestamp, once its own is found to be of the form that the protocol asks for. */
function atTimeOf(fixture: Frame, frame: Frame): Frame {
  assert.match(String(frame["timestamp"]), ISO_WITH_MS);
  return { ...frame, timestamp: fixture["timestamp"] };
}

describe("PresenceSocket", () => {
  it("carries the token in the URL and opens with the welcome", async () => {
    const { socket, peer } = await opened();
    assert.equal(peer.request.url, "/api/v1/ws?token=jwt&positions=1");
    assert.equal(socket.onlineCount, 42);
  });

  it("sends the frames of the fixtures", async () => {
    const { socket, peer } = await opened({ heartbeatMs: 5 });
    const ping = clientFixture("p_client_ping");
    assert.deepEqual(atTimeOf(ping, await peer.frameOf("ping")), ping);
    socket.sendMessage(456, "Hello!");
    const message = clientFixture("p_client_message");
    assert.deepEqual(atTimeOf(message, await peer.frameOf("message")), message);
    socket.sendTyping(true, "post_123");
    assert.deepEqual(await peer.frameOf("typing"), clientFixture("p_client_typing"));
    socket.setPresence("away", "mobile");
    assert.deepEqual(await peer.frameOf("presence"), clientFixture("p_client_presence"));
    socket.close();
  });

  it("delivers every frame of the fixtures", async () => {
    const { socket, peer } = await opened();
    for (const { dialect, direction, frame } of FIXTURES) {
      if (dialect !== "P" || direction !== "server") continue;
      const heard = first<unknown>((listener) => socket.on(String(frame["type"]) as PresenceServerFrame["type"], listener));
      peer.send(frame);
      assert.deepEqual(await heard, frame);
    }
  });

  it("counts who is online", async () => {
    const { socket, peer } = await opened();
    for (const [status, count] of [["online", 43], ["offline", 42], ["offline", 41]] as const) {
      const heard = first((listener) => socket.on("user_status", listener));
      peer.send({ type: "user_status", data: { user_id: 9, status, timestamp: "2025-10-22T10:00:00.000Z" } });
      await heard;
      assert.equal(socket.onlineCount, count);
    }
  });

  it("says its presence again after a break, and resumes", async () => {
    const { socket, peer } = await opened();
    socket.setPresence("busy", "desktop");
    const chat = first((listener) => socket.on("chat", listener));
    peer.send({ ...serverFixture("p_server_chat"), channel: "user_123", epoch: "e", seq: 5 });
    await chat;
    peer.cut();
    const again = await server.peer();
    again.send(serverFixture("p_server_connected"));
    assert.deepEqual(await again.frameOf("presence"), { type: "presence", status: "busy", data: { device: "desktop" } });
    assert.deepEqual(await again.frameOf("resume"), { type: "resume", channel: "user_123", epoch: "e", seq: 5 });
  });

  it("sends no message into the void", () => {
    const socket = new PresenceSocket(DEFAULTS);
    assert.equal(socket.sendMessage(1, "lost?"), false);
  });
});
