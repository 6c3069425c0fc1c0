// `ws` with ioredis, written by hand as its docs show: two channels a socket. Usage: node ws.mjs PORT
// REDIS_URL and JWT_SECRET as for Oneiro.
import { createServer } from "node:http";
import { Redis } from "ioredis";
import jwt from "jsonwebtoken";
import { WebSocketServer } from "ws";

const members = new Map();
const subscriber = new Redis(process.env.REDIS_URL);
subscriber.on("message", (channel, event) => {
  for (const socket of members.get(channel) ?? []) socket.send(event);
});

async function join(channel, socket) {
  const there = members.get(channel);
  if (there) {
    there.add(socket);
  } else {
    members.set(channel, new Set([socket]));
    await subscriber.subscribe(channel);
  }
}

function leave(channel, socket) {
  const there = members.get(channel);
  there?.delete(socket);
  if (there?.size === 0) {
    members.delete(channel);
    subscriber.unsubscribe(channel);
  }
}

const sockets = new WebSocketServer({ noServer: true });
const server = createServer();
server.on("upgrade", (request, stream, head) => {
  let user;
  try {
    const token = new URL(request.url, "http://x").searchParams.get("token");
    user = jwt.verify(token, process.env.JWT_SECRET, { algorithms: ["HS256"] }).user_id;
  } catch {
    stream.destroy();
    return;
  }
  sockets.handleUpgrade(request, stream, head, async (socket) => {
    const channels = ["alerts", `user_${user}`];
    socket.on("error", () => socket.terminate());
    socket.on("close", () => channels.forEach((channel) => leave(channel, socket)));
    await Promise.all(channels.map((channel) => join(channel, socket)));
    socket.send('{"type":"ready"}');
  });
});
server.listen(Number(process.argv[2]), "127.0.0.1");
