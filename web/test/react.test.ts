import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { createElement, StrictMode } from "react";
import { create, type ReactTestRenderer } from "react-test-renderer";
import { ConnectionState } from "../src/index.js";
import { useDreamImages, type DreamImagesResult, type UseDreamImagesOptions } from "../src/react.js";
import { serverFixture } from "./fixtures.js";
import { SocketServer, webSocket, type Peer } from "./socket-server.js";

// The renderer says at every use that other renderers exist; hooks need none of what those add.
const { error } = console;
console.error = (...parts: unknown[]) => {
  if (!String(parts[0]).includes("react-test-renderer is deprecated")) error(...parts);
};

const server = await SocketServer.start();
const BASE = { origin: server.origin, webSocket, token: "t", backoff: { baseMs: 1, capMs: 1 } };

/** What the component saw at every render. */
class Seen {
  readonly results: DreamImagesResult[] = [];
  private waiting: { passes: (result: DreamImagesResult) => boolean; resolve: () => void }[] = [];

  readonly Component = (props: { readonly options: UseDreamImagesOptions }): null => {
    const result = useDreamImages(props.options);
    this.results.push(result);
    for (const { passes, resolve } of this.waiting) if (passes(result)) resolve();
    this.waiting = this.waiting.filter(({ passes }) => !passes(result));
    return null;
  };

  get last(): DreamImagesResult {
    const last = this.results.at(-1);
    assert.ok(last);
    return last;
  }

  /** Resolves once a render passes; React works by itself meanwhile, as it does in a browser. */
  until(passes: (result: DreamImagesResult) => boolean): Promise<void> {
    const last = this.results.at(-1);
    if (last !== undefined && passes(last)) return Promise.resolve();
    return new Promise((resolve) => this.waiting.push({ passes, resolve }));
  }

  /** Resolves with the next render, whatever it shows. */
  next(): Promise<void> {
    return new Promise((resolve) => this.waiting.push({ passes: () => true, resolve }));
  }
}

async function render(seen: Seen, options: UseDreamImagesOptions, into?: ReactTestRenderer): Promise<ReactTestRenderer> {
  const element = createElement(StrictMode, null, createElement(seen.Component, { options }));
  const rendered = seen.next();
  if (into !== undefined) into.update(element);
  const renderer = into ?? create(element);
  await rendered;
  return renderer;
}

/** The next connection that lives: StrictMode mounts twice, and the first connection is closed at once. */
async function welcomed(seen: Seen): Promise<Peer> {
  for (;;) {
    const peer = await server.peer();
    await peer.frameOf("authenticate");
    peer.send(serverFixture("d_server_connection_established"));
    const isGone = await Promise.race([
      peer.closeCode().then(() => true),
      seen.until(({ connection }) => connection.state === ConnectionState.Open).then(() => false),
    ]);
    if (!isGone) return peer;
  }
}

describe("useDreamImages in React", () => {
  it("shows a dream's way from nothing to its pictures", async () => {
    const seen = new Seen();
    const renderer = await render(seen, { ...BASE, dreamId: 123, hasProgress: true });
    const { status, images, isBusy } = seen.last;
    assert.deepEqual({ status, images, isBusy }, { status: null, images: [], isBusy: false });
    const peer = await welcomed(seen);
    peer.send(serverFixture("d_server_image_update_processing"));
    await seen.until((result) => result.isBusy);
    peer.send(serverFixture("d_server_image_progress"));
    await seen.until(({ progress }) => progress.get("1")?.done === 2);
    peer.send(serverFixture("d_server_image_update_partial"));
    await seen.until((result) => result.status === "completed");
    assert.deepEqual(seen.last.images, serverFixture("d_server_image_update_partial")["images"]);
    assert.equal(seen.last.errors[0]?.code, "corrupt_image");
    assert.equal(seen.last.message, "1 of 2 images could not be processed");
    assert.equal(seen.last.progress.size, 0);
    renderer.unmount();
    assert.equal(await peer.closeCode(), 1000);
  });

  it("does not reconnect for a new token function, and uses it at the next need", async () => {
    const seen = new Seen();
    const renderer = await render(seen, { ...BASE, dreamId: 123, token: () => "first" });
    const peer = await welcomed(seen);
    await render(seen, { ...BASE, dreamId: "123", token: () => "second" }, renderer);
    assert.equal(seen.last.connection.state, ConnectionState.Open);
    peer.cut();
    const again = await server.peer();
    assert.deepEqual(await again.frame(), { type: "authenticate", token: "second" });
    renderer.unmount();
  });

  it("follows another dream when told, and none for null", async () => {
    const seen = new Seen();
    const renderer = await render(seen, { ...BASE, dreamId: null });
    assert.equal(seen.last.connection.state, ConnectionState.Idle);
    assert.equal(seen.last.requestStatus(), false);
    await render(seen, { ...BASE, dreamId: 123 }, renderer);
    const peer = await welcomed(seen);
    assert.equal(seen.last.requestStatus(), true);
    assert.deepEqual(await peer.frameOf("request_status"), { type: "request_status", dream_id: 123 });
    await render(seen, { ...BASE, dreamId: 124 }, renderer);
    assert.equal(await peer.closeCode(), 1000);
    assert.equal((await server.peer()).request.url, "/ws/dream-images/124/");
    renderer.unmount();
  });
});
