import assert from "node:assert/strict";
import { after, describe, it } from "node:test";
import { effectScope, ref, watch, type EffectScope } from "vue";
import { ConnectionState } from "../src/index.js";
import { useDreamImages, type DreamImagesRefs, type UseDreamImagesOptions } from "../src/vue.js";
import { serverFixture } from "./fixtures.js";
import { SocketServer, webSocket, type Peer } from "./socket-server.js";

const server = await SocketServer.start();
const BASE = { origin: server.origin, webSocket, token: "t", backoff: { baseMs: 1, capMs: 1 } };

function used(options: Partial<UseDreamImagesOptions> = {}): { readonly refs: DreamImagesRefs; readonly scope: EffectScope } {
  const scope = effectScope();
  after(() => scope.stop());
  const refs = scope.run(() => useDreamImages({ ...BASE, dreamId: 123, ...options }));
  assert.ok(refs);
  return { refs, scope };
}

function until(passes: () => boolean): Promise<void> {
  return new Promise((resolve) => {
    const stop = watch(
      passes,
      (isSo) => {
        if (!isSo) return;
        resolve();
        queueMicrotask(() => stop());
      },
      { immediate: true, flush: "sync" },
    );
  });
}

async function welcomed(refs: DreamImagesRefs): Promise<Peer> {
  const peer = await server.peer();
  await peer.frameOf("authenticate");
  peer.send(serverFixture("d_server_connection_established"));
  await until(() => refs.connection.value.state === ConnectionState.Open);
  return peer;
}

describe("useDreamImages in Vue", () => {
  it("shows a dream's way from nothing to its pictures, and closes with its scope", async () => {
    const { refs, scope } = used({ hasProgress: true });
    assert.equal(refs.status.value, null);
    const peer = await welcomed(refs);
    peer.send(serverFixture("d_server_image_update_processing"));
    await until(() => refs.isBusy.value);
    peer.send(serverFixture("d_server_image_progress"));
    await until(() => refs.progress.value.get("1")?.done === 2);
    peer.send(serverFixture("d_server_image_update_completed"));
    await until(() => refs.status.value === "completed");
    assert.equal(refs.images.value.length, 2);
    assert.deepEqual([refs.errors.value, refs.message.value, refs.isBusy.value, refs.progress.value.size], [[], null, false, 0]);
    scope.stop();
    assert.equal(await peer.closeCode(), 1000);
  });

  it("keeps pictures that are there while others are processed again", async () => {
    const { refs } = used();
    const peer = await welcomed(refs);
    peer.send(serverFixture("d_server_image_update_partial"));
    await until(() => refs.status.value === "completed");
    peer.send({ ...serverFixture("d_server_image_update_processing"), version: 5 });
    await until(() => refs.status.value === "processing");
    assert.equal(refs.images.value.length, 1);
  });

  it("follows a reactive id, none for null, and does not mind how an id is written", async () => {
    const dreamId = ref<number | string | null>(null);
    const { refs } = used({ dreamId });
    assert.equal(refs.connection.value.state, ConnectionState.Idle);
    assert.equal(refs.requestStatus(), false);
    dreamId.value = 123;
    const peer = await welcomed(refs);
    dreamId.value = "123";
    assert.equal(refs.requestStatus(), true);
    assert.deepEqual(await peer.frameOf("request_status"), { type: "request_status", dream_id: 123 });
    dreamId.value = 124;
    assert.equal(await peer.closeCode(), 1000);
    assert.equal((await server.peer()).request.url, "/ws/dream-images/124/");
  });
});
