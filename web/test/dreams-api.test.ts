import assert from "node:assert/strict";
import { createServer } from "node:net";
import { describe, it } from "node:test";
import { ApiError, createDreamsApi, type Dream, type TokenRequest } from "../src/index.js";
import { dreamForm } from "../src/dreams-api.js";
import { partsOf, startHttp, type Answer } from "./http-server.js";

const DREAM: Dream = {
  id: 123,
  title: "梦境标题",
  content: "梦境内容...",
  categories: ["normal"],
  theme_tags: [],
  character_tags: [],
  location_tags: [],
  images: [],
  images_status: { status: "processing", websocket_url: "/ws/dream-images/123/", images: [] },
  created_at: "2025-04-08T10:00:00",
};

let answer: Answer = { status: 200, body: DREAM };
const { origin, asked } = await startHttp(() => answer);
const api = createDreamsApi({ origin, token: "Bearer secret" });

function lastAsked() {
  const last = asked.at(-1);
  assert.ok(last);
  return last;
}

async function failure(call: Promise<unknown>): Promise<ApiError> {
  const error: unknown = await call.then(
    () => assert.fail("succeeded"),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof ApiError, String(error));
  return error;
}

describe("creating a dream", () => {
  it("sends the fields of the contract, in text and JSON inside text", async () => {
    answer = { status: 201, body: DREAM };
    const bytes = new Uint8Array([0xff, 0xd8, 0, 13, 10, 45, 45]);
    const dream = await api.create({
      title: "梦境标题",
      content: "line\nline",
      categories: ["normal", "memorable"],
      tags: { theme: ["海"], character: [], location: [] },
      images: [
        { file: new File([bytes], "a.jpg", { type: "image/jpeg" }), position: 50 },
        { file: new Blob([bytes]), position: 100 },
        { file: new File([bytes], 'we"ird\r\nname.png') },
      ],
    });
    assert.deepEqual(dream, DREAM);
    assert.equal(lastAsked().method, "POST");
    assert.equal(lastAsked().url, "/api/dreams/");
    assert.equal(lastAsked().headers.authorization, "Bearer secret");
    const parts = partsOf(lastAsked());
    assert.deepEqual(
      parts.map(({ name, fileName, type, data }) => [name, fileName, type, fileName === null ? data.toString() : data.length]),
      [
        ["title", null, null, "梦境标题"],
        ["content", null, null, "line\nline"],
        ["categories", null, null, '["normal","memorable"]'],
        ["tags", null, null, '{"theme":["海"],"character":[],"location":[]}'],
        ["imageMetadata_0", null, null, '{"position":50}'],
        ["imageFile_0", "a.jpg", "image/jpeg", 7],
        ["imageMetadata_1", null, null, '{"position":100}'],
        ["imageFile_1", "image_1", "application/octet-stream", 7],
        ["imageFile_2", "we%22ird%0D%0Aname.png", "application/octet-stream", 7],
      ],
    );
    assert.deepEqual(parts[5]?.data, Buffer.from(bytes));
  });

  it("needs neither `crypto` nor `File`, which Node 18 lacks", async () => {
    const photo = new File(["x"], "a.jpg");
    const missing = ["crypto", "File"].map((name) => [name, Object.getOwnPropertyDescriptor(globalThis, name) ?? {}] as const);
    for (const [name] of missing) assert.ok(Reflect.deleteProperty(globalThis, name));
    try {
      const forms = [0, 1].map(() => dreamForm({ title: "t", content: "c", images: [{ file: photo }, { file: new Blob(["y"]) }] }));
      const [first, second] = forms.map(({ type }) => /boundary=oneiro-([0-9a-f]{32})$/.exec(type)?.[1]);
      assert.ok(first !== undefined && second !== undefined && first !== second, `${first} ${second}`);
      const text = (await forms[0]?.text()) ?? "";
      assert.match(text, /filename="a\.jpg"/);
      assert.match(text, /filename="image_1"/);
    } finally {
      for (const [name, descriptor] of missing) Object.defineProperty(globalThis, name, descriptor);
    }
  });

  it("keeps every kind of line end as it is: positions count them", async () => {
    const content = "a\nb\r\nc\rd\n\n🌊";
    await api.create({ title: "t", content });
    assert.equal(partsOf(lastAsked())[1]?.data.toString(), content);
  });
});

describe("the other calls", () => {
  it("go where the contract says", async () => {
    const calls: readonly (readonly [string, Answer, () => Promise<unknown>])[] = [
      ["GET /api/dreams/", { status: 200, body: { results: [DREAM], next: null } }, () => api.list()],
      [
        "GET /api/dreams/?limit=5&cursor=a%26b",
        { status: 200, body: { results: [], next: "c" } },
        () => api.list({ limit: 5, cursor: "a&b" }),
      ],
      ["GET /api/dreams/123/", { status: 200, body: DREAM }, () => api.get(123)],
      ["PATCH /api/dreams/123/", { status: 200, body: DREAM }, () => api.change("123", { title: "new" })],
      ["DELETE /api/dreams/123/", { status: 202 }, () => api.delete(123)],
      ["POST /api/dreams/123/images/retry/", { status: 202, body: {} }, () => api.retryImages(123)],
      ["DELETE /api/dreams/123/images/4/", { status: 202 }, () => api.deleteImage(123, 4)],
      ["POST /api/dreams/123/images/", { status: 200, body: DREAM }, () => api.addImages(123, [{ file: new Blob(["x"]) }])],
      ["GET /api/dreams/a%2F..%2Fb/", { status: 200, body: DREAM }, () => api.get("a/../b")],
    ];
    for (const [line, given, call] of calls) {
      answer = given;
      await call();
      assert.equal(`${lastAsked().method} ${lastAsked().url}`, line);
    }
  });

  it("give a page with its cursor, without dreams that cannot be read", async () => {
    answer = { status: 200, body: { results: [DREAM, { id: 5 }], next: "cursor" } };
    assert.deepEqual(await api.list(), { results: [DREAM], next: "cursor" });
  });
});

describe("refusals", () => {
  it("name the field", async () => {
    const fields = { title: "must not be empty" };
    answer = { status: 400, body: { code: "invalid_field", detail: "title must not be empty", fields } };
    const error = await failure(api.get(1));
    assert.deepEqual([error.status, error.code, error.detail, error.fields], [400, "invalid_field", "title must not be empty", fields]);
  });

  it("name the field in the other forms that servers use", async () => {
    answer = { status: 400, body: { code: "x", detail: "y", fields: { title: ["too long", "too odd"] } } };
    assert.deepEqual((await failure(api.get(1))).fields, { title: "too long too odd" });
    answer = { status: 400, body: { code: "x", detail: "y", fields: [{ field: "tags", detail: "no object" }] } };
    assert.deepEqual((await failure(api.get(1))).fields, { tags: "no object" });
  });

  it("carry the pause, in seconds or as a date", async () => {
    answer = { status: 503, body: { code: "unavailable", detail: "x" }, headers: { "retry-after": "5" } };
    assert.equal((await failure(api.get(1))).retryAfterS, 5);
    answer = { status: 429, headers: { "retry-after": new Date(Date.now() + 60_000).toUTCString() } };
    const { retryAfterS } = await failure(api.get(1));
    assert.ok(retryAfterS !== null && retryAfterS > 0 && retryAfterS <= 60);
    answer = { status: 429, headers: { "retry-after": "soon" } };
    assert.equal((await failure(api.get(1))).retryAfterS, null);
  });

  it("of a proxy, in HTML, are understood by their status", async () => {
    answer = { status: 502, body: "<html>Bad Gateway</html>" };
    const error = await failure(api.get(1));
    assert.deepEqual([error.status, error.code], [502, "http_502"]);
  });

  it("by nobody at all are network errors", async () => {
    const probe = createServer();
    await new Promise<void>((resolve) => probe.listen(0, "127.0.0.1", resolve));
    const address = probe.address();
    assert.ok(typeof address === "object" && address !== null);
    await new Promise((resolve) => probe.close(resolve));
    const nowhere = createDreamsApi({ origin: `http://127.0.0.1:${address.port}`, token: "t" });
    const error = await failure(nowhere.get(1));
    assert.deepEqual([error.status, error.code], [0, "network"]);
  });

  it("by the caller are aborts", async () => {
    const error = await failure(api.get(1, { signal: AbortSignal.abort() }));
    assert.deepEqual([error.status, error.code], [0, "aborted"]);
  });

  it("include answers that are no dream", async () => {
    for (const body of ["", "null", "{}", { ...DREAM, images: [{ id: 1 }] }, "not json"]) {
      answer = { status: 200, body };
      assert.equal((await failure(api.get(1))).code, "bad_answer", JSON.stringify(body));
    }
  });
});

describe("an expired token", () => {
  it("is replaced once by a fresh one", async () => {
    const requests: TokenRequest[] = [];
    const refreshing = createDreamsApi({
      origin,
      token: (request) => {
        requests.push(request);
        return request.isRefresh ? "fresh" : "stale";
      },
    });
    const before = asked.length;
    answer = { status: 401, body: { code: "token_expired", detail: "the token has expired" } };
    assert.equal((await failure(refreshing.get(1))).status, 401);
    assert.deepEqual(asked.slice(before).map(({ headers }) => headers.authorization), ["Bearer stale", "Bearer fresh"]);
    assert.deepEqual(requests, [{ isRefresh: false }, { isRefresh: true }]);
  });

  it("that cannot be replaced is an error without asking again", async () => {
    const before = asked.length;
    assert.equal((await failure(api.get(1))).status, 401);
    assert.equal(asked.length, before + 1);
    assert.equal((await failure(createDreamsApi({ origin, token: () => null }).get(1))).code, "signed_out");
    assert.equal(asked.length, before + 1);
  });
});
