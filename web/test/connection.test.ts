import assert from "node:assert/strict";
import { createServer, type Socket } from "node:net";
import { after, describe, it } from "node:test";
import {
  ClosedBecause,
  CLOSE_CODES,
  CloseAction,
  ConnectionState,
  DreamImagesSocket,
  type ConnectionStatus,
  type DreamImagesOptions,
  type TokenRequest,
} from "../src/index.js";
import { Heartbeat } from "../src/heartbeat.js";
import { first, SocketServer, webSocket, type Peer } from "./socket-server.js";

const server = await SocketServer.start();
/** Reconnects at once: where a test is not about the delay, it must not wait for one. */
const AT_ONCE = { backoff: { baseMs: 1, capMs: 1 } };
const WELCOME = { type: "connection_established", dream_id: "7", message: "连接已建立，等待图片处理状态更新" };

function socketTo(options: Partial<DreamImagesOptions> = {}): DreamImagesSocket {
  const socket = new DreamImagesSocket({ dreamId: 7, token: "t", origin: server.origin, webSocket, ...AT_ONCE, ...options });
  after(() => socket.close());
  return socket;
}

function reached(socket: DreamImagesSocket, state: ConnectionState): Promise<ConnectionStatus> {
  if (socket.status.state === state) return Promise.resolve(socket.status);
  return first<ConnectionStatus>((listener) => socket.onStatus(listener), (status) => status.state === state);
}

async function welcomed(): Promise<Peer> {
  const peer = await server.peer();
  await peer.frameOf("authenticate");
  peer.send(WELCOME);
  return peer;
}

async function opened(options: Partial<DreamImagesOptions> = {}): Promise<{ socket: DreamImagesSocket; peer: Peer }> {
  const socket = socketTo(options);
  socket.connect();
  const peer = await welcomed();
  await reached(socket, ConnectionState.Open);
  return { socket, peer };
}

async function closedAfter(socket: DreamImagesSocket): Promise<Extract<ConnectionStatus, { state: ConnectionState.Closed }>> {
  const status = await reached(socket, ConnectionState.Closed);
  assert.equal(status.state, ConnectionState.Closed);
  return status;
}

describe("a connection", () => {
  it("goes through its states in order and says each once", async () => {
    const socket = socketTo();
    const states: string[] = [socket.status.state];
    socket.onStatus(({ state }) => states.push(state));
    socket.connect();
    const peer = await welcomed();
    await reached(socket, ConnectionState.Open);
    socket.close();
    assert.equal(await peer.closeCode(), 1000);
    assert.deepEqual(states, ["idle", "connecting", "authenticating", "open", "closed"]);
    assert.deepEqual(socket.status, { state: ConnectionState.Closed, because: ClosedBecause.Requested, close: null });
  });

  it("opens one socket however often it is told to connect", async () => {
    const socket = socketTo();
    for (let time = 0; time < 5; time += 1) socket.connect();
    const peer = await welcomed();
    await reached(socket, ConnectionState.Open);
    socket.connect();
    peer.send({ type: "ping", timestamp: 1 });
    await peer.frameOf("pong");
    assert.equal(server.waitingPeers, 0);
  });

  it("may be closed in any state, twice, and started again", async () => {
    const socket = socketTo();
    socket.close();
    assert.equal(socket.status.state, ConnectionState.Idle);
    socket.connect();
    socket.close();
    socket.close();
    assert.equal(socket.status.state, ConnectionState.Closed);
    socket.connect();
    await welcomed();
    await reached(socket, ConnectionState.Open);
  });

  it("takes its undo functions at their word", async () => {
    const { socket, peer } = await opened();
    let calls = 0;
    const undo = socket.on("pong", () => (calls += 1));
    undo();
    undo();
    const heard = first<unknown>((listener) => socket.on("pong", listener));
    peer.send({ type: "pong", timestamp: 1 });
    await heard;
    assert.equal(calls, 0);
  });

  it("sends nothing before it is open, and says so", async () => {
    const socket = socketTo();
    assert.equal(socket.requestStatus(), false);
    socket.connect();
    const peer = await server.peer();
    await reached(socket, ConnectionState.Authenticating);
    assert.equal(socket.requestStatus(), false);
    assert.deepEqual(await peer.frame(), { type: "authenticate", token: "t" });
    assert.equal(peer.waitingFrames, 0);
  });

  it("reports a WebSocket that the platform refuses to make", async () => {
    const socket = socketTo({ path: "http://[", origin: server.origin });
    socket.connect();
    assert.equal((await closedAfter(socket)).because, ClosedBecause.Refused);
  });
});

describe("reconnecting", () => {
  it("follows a connection that breaks, again and again", async () => {
    const { socket, peer } = await opened();
    let last = peer;
    for (let time = 0; time < 5; time += 1) {
      const waiting = reached(socket, ConnectionState.Waiting);
      last.cut();
      const status = await waiting;
      assert.ok(status.state === ConnectionState.Waiting);
      // It worked in between: every break is the first.
      assert.deepEqual([status.attempt, status.close.code], [1, 1006]);
      last = await welcomed();
      await reached(socket, ConnectionState.Open);
    }
  });

  it("counts attempts that fail in a row, and backs off further each time", async () => {
    const randoms: number[] = [];
    const socket = socketTo({ random: () => (randoms.push(0.5), 0.5), backoff: { baseMs: 1, capMs: 8 } });
    const attempts: number[] = [];
    socket.onStatus((status) => {
      if (status.state === ConnectionState.Waiting) attempts.push(status.attempt);
    });
    socket.connect();
    for (let time = 0; time < 4; time += 1) (await server.peer()).close(1011);
    const peer = await welcomed();
    await reached(socket, ConnectionState.Open);
    assert.deepEqual(attempts, [1, 2, 3, 4]);
    assert.equal(randoms.length, 4);
    peer.close(1001);
    await reached(socket, ConnectionState.Waiting);
    assert.equal(attempts.at(-1), 1);
  });

  for (const { code, action, name } of CLOSE_CODES) {
    if (code === 1005 || code === 1006) continue;
    it(`${code} (${name}) means: ${action}`, async () => {
      const requests: TokenRequest[] = [];
      const { socket, peer } = await opened({
        token: (request) => {
          requests.push(request);
          return "t";
        },
        // The pause for a rate limit is not to be waited for here.
        random: () => 0,
      });
      const next = first<ConnectionStatus>((listener) => socket.onStatus(listener));
      peer.close(code, "because");
      const status = await next;
      switch (action) {
        case CloseAction.Stop:
          assert.deepEqual(status, {
            state: ConnectionState.Closed,
            because: code === 1000 ? ClosedBecause.Ended : ClosedBecause.Refused,
            close: { code, reason: "because" },
          });
          break;
        case CloseAction.RefreshToken:
          assert.equal(status.state, ConnectionState.Connecting);
          await welcomed();
          assert.deepEqual(requests, [{ isRefresh: false }, { isRefresh: true }]);
          break;
        case CloseAction.Reconnect:
        case CloseAction.Resume:
          assert.ok(status.state === ConnectionState.Waiting);
          assert.deepEqual(status.close, { code, reason: "because" });
          assert.equal(status.isServerPause, code === 4029);
          if (!status.isServerPause) await welcomed();
          break;
      }
      socket.close();
    });
  }

  for (const code of [1012, 1013]) {
    it(`${code} with retry_after waits at least so long, and cannot be hurried`, async () => {
      const { socket, peer } = await opened();
      const before = Date.now();
      peer.close(code, "retry_after=30");
      const status = await reached(socket, ConnectionState.Waiting);
      assert.ok(status.state === ConnectionState.Waiting && status.isServerPause);
      assert.ok(status.retryAtMs >= before + 30_000);
      socket.reconnectNow();
      assert.equal(socket.status.state, ConnectionState.Waiting);
      socket.close();
    });
  }

  it("comes back after a short retry_after", async () => {
    const { socket, peer } = await opened();
    peer.close(1012, "retry_after=0.05");
    await welcomed();
    await reached(socket, ConnectionState.Open);
  });

  it("can be hurried where the pause is its own", async () => {
    const { socket, peer } = await opened({ backoff: { baseMs: 3_600_000, capMs: 3_600_000 }, random: () => 0.5 });
    peer.cut();
    await reached(socket, ConnectionState.Waiting);
    socket.reconnectNow();
    await welcomed();
    await reached(socket, ConnectionState.Open);
  });

  it("reaches a server that was not there at first", async () => {
    const port = await freePort();
    const socket = socketTo({ origin: `http://127.0.0.1:${port}` });
    socket.connect();
    await reached(socket, ConnectionState.Waiting);
    const late = createServer();
    await new Promise<void>((resolve) => late.listen(port, "127.0.0.1", resolve));
    const caller = await new Promise<Socket>((resolve) => late.once("connection", resolve));
    socket.close();
    caller.destroy();
    late.close();
  });
});

describe("timeouts", () => {
  it("give up a server that accepts and then says nothing", async () => {
    const mute = createServer();
    const callers: Socket[] = [];
    mute.on("connection", (caller) => callers.push(caller));
    await new Promise<void>((resolve) => mute.listen(0, "127.0.0.1", resolve));
    const address = mute.address();
    assert.ok(typeof address === "object" && address !== null);
    const socket = socketTo({ origin: `http://127.0.0.1:${address.port}`, connectTimeoutMs: 20 });
    socket.connect();
    const status = await reached(socket, ConnectionState.Waiting);
    assert.ok(status.state === ConnectionState.Waiting);
    assert.deepEqual(status.close, { code: 1006, reason: "connect timeout" });
    socket.close();
    for (const caller of callers) caller.destroy();
    mute.close();
  });

  it("give up a session that is never welcomed, and try again", async () => {
    // On a server of its own: attempts that are given up early leave peers that nobody takes.
    const mute = await SocketServer.start();
    const socket = socketTo({ origin: mute.origin, connectTimeoutMs: 60 });
    socket.connect();
    const status = await reached(socket, ConnectionState.Waiting);
    assert.ok(status.state === ConnectionState.Waiting && status.close.code === 1006);
    await mute.peer();
    await mute.peer();
    socket.close();
  });

  it("count a token provider that never answers", async () => {
    const socket = socketTo({ connectTimeoutMs: 20, token: () => new Promise(() => undefined) });
    socket.connect();
    await reached(socket, ConnectionState.Waiting);
    socket.close();
  });
});

describe("the heartbeat", () => {
  it("pings on, and is content with any answer", async () => {
    const { socket, peer } = await opened({ heartbeatMs: 5, heartbeatTimeoutMs: 60_000 });
    for (let time = 0; time < 4; time += 1) {
      const ping = await peer.frameOf("ping");
      assert.equal(typeof ping["timestamp"], "number");
      peer.send(time % 2 === 0 ? { type: "pong", timestamp: ping["timestamp"] } : { type: "unheard of" });
    }
    assert.equal(socket.status.state, ConnectionState.Open);
    socket.close();
  });

  it("finds a connection dead on which nothing comes any more, and makes a new one", async () => {
    const { socket } = await opened({ heartbeatMs: 5, heartbeatTimeoutMs: 20 });
    const status = await reached(socket, ConnectionState.Waiting);
    assert.ok(status.state === ConnectionState.Waiting);
    assert.deepEqual(status.close, { code: 1006, reason: "heartbeat timeout" });
    await welcomed();
    socket.close();
  });

  it("takes an answer for its own ping and for older ones, which were refused", () => {
    const sent: number[] = [];
    const heartbeat = new Heartbeat({
      intervalMs: 60_000,
      timeoutMs: 60_000,
      sendPing: (stampMs) => sent.push(stampMs),
      onDead: () => assert.fail("nothing is dead"),
    });
    const told: string[] = [];
    for (const name of ["a", "b", "c", "d"]) heartbeat.ping((isAnswered) => told.push(`${name} ${String(isAnswered)}`));
    assert.equal(new Set(sent).size, 4);
    heartbeat.answered(sent[1] ?? null);
    assert.deepEqual(told, ["a true", "b true"]);
    heartbeat.answered(null);
    // Of a server that does not echo.
    heartbeat.answered(new Date(0).toISOString());
    assert.deepEqual(told.slice(2), ["c true"]);
    heartbeat.answered(new Date(sent[3] ?? 0).toISOString());
    heartbeat.stop();
    assert.deepEqual(told.slice(3), ["d true"]);
  });

  it("answers the server's ping with the same timestamp", async () => {
    const { peer } = await opened();
    for (const timestamp of [1649154859, 1649154859.123, "2025-10-22T10:00:00.000Z"]) {
      peer.send({ type: "ping", timestamp });
      assert.deepEqual(await peer.frameOf("pong"), { type: "pong", timestamp });
    }
  });
});

describe("tokens", () => {
  it("are asked for at every connection, and afresh only after a refusal", async () => {
    const requests: boolean[] = [];
    const { socket, peer } = await opened({
      token: async ({ isRefresh }) => {
        requests.push(isRefresh);
        return `token ${requests.length}`;
      },
    });
    peer.close(4001, "token_expired");
    const second = await server.peer();
    assert.deepEqual(await second.frame(), { type: "authenticate", token: "token 2" });
    second.send(WELCOME);
    await reached(socket, ConnectionState.Open);
    second.cut();
    const third = await server.peer();
    assert.deepEqual(await third.frame(), { type: "authenticate", token: "token 3" });
    third.send(WELCOME);
    await reached(socket, ConnectionState.Open);
    assert.deepEqual(requests, [false, true, false]);
  });

  it("that are refused although fresh end it", async () => {
    const socket = socketTo({ token: () => "t" });
    socket.connect();
    (await server.peer()).close(4001, "bad token");
    (await server.peer()).close(4001, "bad token");
    const status = await closedAfter(socket);
    assert.equal(status.because, ClosedBecause.Unauthenticated);
    assert.deepEqual(status.close, { code: 4001, reason: "bad token" });
  });

  it("may expire any number of times while the connection works in between", async () => {
    const { socket, peer } = await opened({ token: () => "t" });
    let last = peer;
    for (let time = 0; time < 4; time += 1) {
      last.close(4001, "token_expired");
      last = await welcomed();
      await reached(socket, ConnectionState.Open);
    }
  });

  it("given as plain text cannot be refreshed", async () => {
    const { socket, peer } = await opened();
    peer.close(4001, "token_expired");
    assert.equal((await closedAfter(socket)).because, ClosedBecause.Unauthenticated);
  });

  it("that do not exist end it, and signing in starts it again", async () => {
    let token: string | null = null;
    const socket = socketTo({ token: () => token });
    socket.connect();
    assert.equal((await closedAfter(socket)).because, ClosedBecause.Unauthenticated);
    token = "t";
    socket.connect();
    await welcomed();
    await reached(socket, ConnectionState.Open);
  });

  it("whose provider fails are asked for again later", async () => {
    let calls = 0;
    const socket = socketTo({
      token: () => {
        calls += 1;
        return calls < 3 ? Promise.reject(new Error("offline")) : "t";
      },
    });
    socket.connect();
    await welcomed();
    assert.equal(calls, 3);
  });

  it("are handed over in place, without a reconnect", async () => {
    const { socket, peer } = await opened({ token: ({ isRefresh }) => (isRefresh ? "new" : "old") });
    assert.equal(await socket.refreshToken(), true);
    assert.deepEqual(await peer.frameOf("authenticate"), { type: "authenticate", token: "new" });
    peer.send(WELCOME);
    assert.equal(socket.status.state, ConnectionState.Open);
  });

  it("that arrive after close() open nothing", async () => {
    let give = (_token: string): void => undefined;
    const socket = socketTo({ token: () => new Promise((resolve) => (give = resolve)) });
    socket.connect();
    socket.close();
    give("t");
    await new Promise(setImmediate);
    assert.equal(socket.status.state, ConnectionState.Closed);
    assert.equal(server.waitingPeers, 0);
  });
});

async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, "127.0.0.1", resolve));
  const address = probe.address();
  assert.ok(typeof address === "object" && address !== null);
  await new Promise((resolve) => probe.close(resolve));
  return address.port;
}
