import assert from "node:assert/strict";
import { after, describe, it } from "node:test";
import {
  ConnectionState,
  DreamImagesSocket,
  DreamImageWebSocketClient,
  type DreamImagesOptions,
  type IgnoredFrame,
  type ImageUpdateFrame,
} from "../src/index.js";
import { clientFixture, serverFixture } from "./fixtures.js";
import { first, SocketServer, webSocket, type Frame, type Peer } from "./socket-server.js";

const server = await SocketServer.start();
const JWT = String(clientFixture("d_client_authenticate_bare")["token"]);
const DEFAULTS = { dreamId: 123, token: JWT, origin: server.origin, webSocket, backoff: { baseMs: 1, capMs: 1 } };

async function opened(options: Partial<DreamImagesOptions> = {}): Promise<{ socket: DreamImagesSocket; peer: Peer }> {
  const socket = new DreamImagesSocket({ ...DEFAULTS, ...options });
  after(() => socket.close());
  socket.connect();
  return { socket, peer: await welcomed() };
}

async function welcomed(): Promise<Peer> {
  const peer = await server.peer();
  await peer.frameOf("authenticate");
  peer.send(serverFixture("d_server_connection_established"));
  return peer;
}

function update(version: number | null, status: string, more: Frame = {}): Frame {
  return { type: "image_update", dream_id: 123, status, images: [], timestamp: 1, message: null, version, ...more };
}

/** What the socket delivered of `frames`, as versions. */
async function delivered(socket: DreamImagesSocket, peer: Peer, frames: readonly Frame[]): Promise<unknown[]> {
  const seen: unknown[] = [];
  const undo = socket.onUpdate(({ version, status }) => seen.push(version ?? status));
  const done = first((listener) => socket.on("pong", listener));
  for (const frame of frames) peer.send(frame);
  peer.send({ type: "pong", timestamp: 0 });
  await done;
  undo();
  return seen;
}

describe("DreamImagesSocket", () => {
  it("connects to the dream's path and keeps the token out of the URL", async () => {
    const { peer } = await opened();
    assert.equal(peer.request.url, "/ws/dream-images/123/");
    const progressing = await opened({ hasProgress: true, path: "/ws/dream-images/123/" });
    assert.equal(progressing.peer.request.url, "/ws/dream-images/123/?progress=1");
  });

  it("sends the frames of the fixtures", async () => {
    const { socket, peer } = await opened({ heartbeatMs: 5 });
    const ping = await peer.frameOf("ping");
    assert.deepEqual(Object.keys(ping), Object.keys(clientFixture("d_client_ping")));
    // Milliseconds, as the first front end sent them.
    assert.ok(Math.abs(Number(ping["timestamp"]) - Date.now()) < 60_000);
    peer.send(serverFixture("d_server_ping"));
    assert.deepEqual(await peer.frameOf("pong"), clientFixture("d_client_pong"));
    socket.requestStatus();
    assert.deepEqual(await peer.frameOf("request_status"), clientFixture("d_client_request_status"));
    socket.close();
  });

  for (const name of ["d_client_authenticate", "d_client_authenticate_bare"]) {
    it(`authenticates as in ${name}`, async () => {
      const socket = new DreamImagesSocket({ ...DEFAULTS, token: String(clientFixture(name)["token"]) });
      socket.connect();
      const peer = await server.peer();
      assert.deepEqual(await peer.frame(), clientFixture(name));
      socket.close();
    });
  }

  it("delivers every state of the fixtures", async () => {
    const { socket, peer } = await opened();
    const names = ["processing", "failed", "completed", "delete_processing", "delete_completed"];
    const frames = names.map((name) => serverFixture(`d_server_image_update_${name}`));
    const seen: ImageUpdateFrame[] = [];
    socket.onUpdate((frame) => seen.push(frame));
    const last = first<ImageUpdateFrame>((listener) => socket.onUpdate(listener), ({ status }) => status === "delete_completed");
    for (const frame of frames) peer.send(frame);
    await last;
    assert.deepEqual(seen, frames);
    assert.deepEqual(socket.latest, frames.at(-1));
  });

  it("drops what is older than what was seen, and what repeats it", async () => {
    const { socket, peer } = await opened();
    const ignored: IgnoredFrame[] = [];
    socket.onIgnored((frame) => ignored.push(frame));
    const frames = [1, 3, 2, 3, 4, 1].map((version) => update(version, "processing"));
    assert.deepEqual(await delivered(socket, peer, frames), [1, 3, 4]);
    assert.deepEqual(ignored.map(({ because }) => because), ["stale", "stale", "stale"]);
  });

  it("drops stale snapshots across reconnects, and delivers newer ones", async () => {
    const { socket, peer } = await opened();
    assert.deepEqual(await delivered(socket, peer, [update(5, "processing")]), [5]);
    peer.cut();
    const again = await welcomed();
    assert.deepEqual(await delivered(socket, again, [update(5, "processing"), update(6, "completed")]), [6]);
  });

  it("orders by time where the server sends no versions", async () => {
    const { socket, peer } = await opened();
    const frames = [
      update(null, "processing", { timestamp: 10 }),
      update(null, "completed", { timestamp: 12.5 }),
      update(null, "processing", { timestamp: 11 }),
      update(null, "completed", { timestamp: 12.5 }),
      update(null, "delete_processing", { timestamp: 12.5 }),
    ];
    assert.deepEqual(await delivered(socket, peer, frames), ["processing", "completed", "delete_processing"]);
  });

  it("delivers the answer to request_status even if it is known, once, but never an older one", async () => {
    const { socket, peer } = await opened();
    assert.deepEqual(await delivered(socket, peer, [update(5, "processing")]), [5]);
    assert.ok(socket.requestStatus());
    const frames = [update(4, "processing"), update(5, "processing"), update(5, "processing")];
    assert.deepEqual(await delivered(socket, peer, frames), [5]);
  });

  it("takes the dream's id as number or text, and no other dream's news", async () => {
    const { socket, peer } = await opened();
    const frames = [
      serverFixture("d_server_image_update_string_id"),
      update(2, "processing", { dream_id: "124" }),
      update(3, "processing", { dream_id: 123 }),
    ];
    assert.deepEqual(await delivered(socket, peer, frames), [1, 3]);
  });

  it("survives noise of every kind", async () => {
    const { socket, peer } = await opened();
    const reasons: string[] = [];
    socket.onIgnored(({ because }) => reasons.push(because));
    peer.send("not json");
    peer.send("[1,2]");
    peer.sendBinary(new Uint8Array([1, 2, 3]));
    peer.send({ type: "dance" });
    peer.send(update(1, "melted"));
    assert.deepEqual(await delivered(socket, peer, [update(1, "processing")]), [1]);
    assert.deepEqual(reasons, ["not_json", "not_json", "not_json", "unknown_type", "malformed"]);
    assert.equal(socket.status.state, ConnectionState.Open);
  });

  it("delivers errors and progress", async () => {
    const { socket, peer } = await opened({ hasProgress: true });
    const error = first((listener) => socket.on("error", listener));
    const progress = first((listener) => socket.onProgress(listener));
    peer.send(serverFixture("d_server_error"));
    peer.send(serverFixture("d_server_image_progress"));
    assert.deepEqual(await error, serverFixture("d_server_error"));
    assert.deepEqual(await progress, serverFixture("d_server_image_progress"));
  });
});

describe("DreamImageWebSocketClient", () => {
  it("works as the first front end used it", async () => {
    const updates: ImageUpdateFrame[] = [];
    let heard = (): void => undefined;
    const called = new Promise<void>((resolve) => (heard = resolve));
    const { origin, webSocket: constructor } = { origin: server.origin, webSocket };
    const client = new DreamImageWebSocketClient(
      123,
      "your-jwt-token",
      (data) => {
        updates.push(data);
        heard();
      },
      { origin, webSocket: constructor },
    );
    client.connect();
    const peer = await welcomed();
    peer.send(serverFixture("d_server_image_update_completed"));
    await called;
    assert.equal(updates[0]?.images.length, 2);
    client.disconnect();
    assert.equal(await peer.closeCode(), 1000);
  });
});
