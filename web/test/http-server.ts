/** A real HTTP server on a free port that records what it is asked and answers what it is told. */

import { createServer, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";
import { after } from "node:test";

/** A request as it came. */
export interface Asked {
  readonly method: string;
  readonly url: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

/** What to answer. */
export interface Answer {
  readonly status: number;
  readonly body?: unknown;
  readonly headers?: { readonly [name: string]: string };
}

/** A part of a multipart body. */
export interface Part {
  readonly name: string;
  readonly fileName: string | null;
  readonly type: string | null;
  readonly data: Buffer;
}

/** Starts a server that answers with what `answer` returns, to be stopped with the test file. */
export async function startHttp(answer: (asked: Asked) => Answer): Promise<{ readonly origin: string; readonly asked: Asked[] }> {
  const asked: Asked[] = [];
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      const one = { method: request.method ?? "", url: request.url ?? "", headers: request.headers, body: Buffer.concat(chunks) };
      asked.push(one);
      const { status, body, headers } = answer(one);
      response.writeHead(status, headers);
      response.end(body === undefined ? "" : typeof body === "string" ? body : JSON.stringify(body));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, asked };
}

/** Takes a multipart body apart (RFC 7578). */
export function partsOf({ headers, body }: Asked): Part[] {
  const boundary = /^multipart\/form-data; boundary=(\S+)$/.exec(headers["content-type"] ?? "")?.[1];
  if (boundary === undefined) throw new Error(`not multipart: ${headers["content-type"]}`);
  const text = body.toString("latin1");
  const pieces = text.split(`--${boundary}`);
  if (pieces.at(0) !== "" || pieces.at(-1) !== "--\r\n") throw new Error("bad framing");
  return pieces.slice(1, -1).map((piece) => {
    const split = piece.indexOf("\r\n\r\n");
    const head = Buffer.from(piece.slice(2, split), "latin1").toString("utf8");
    return {
      name: /; name="([^"]*)"/.exec(head)?.[1] ?? "",
      fileName: /; filename="([^"]*)"/.exec(head)?.[1] ?? null,
      type: /Content-Type: (.*)/.exec(head)?.[1] ?? null,
      data: Buffer.from(piece.slice(split + 4, -2), "latin1"),
    };
  });
}
