// Socket.IO 4 with its Redis adapter: two rooms a socket. Usage: node socketio.mjs PORT
// REDIS_URL and JWT_SECRET as for Oneiro. WebSocket only, no request kept: what its docs advise for many connections.
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import jwt from "jsonwebtoken";
import { createClient } from "redis";
import { Server } from "socket.io";

const publisher = createClient({ url: process.env.REDIS_URL });
const subscriber = publisher.duplicate();
await Promise.all([publisher.connect(), subscriber.connect()]);

const server = createServer();
const io = new Server(server, { transports: ["websocket"], adapter: createAdapter(publisher, subscriber) });
io.engine.on("connection", (raw) => {
  raw.request = null;
});
io.use((socket, next) => {
  try {
    socket.data.user = jwt.verify(socket.handshake.auth.token, process.env.JWT_SECRET, { algorithms: ["HS256"] }).user_id;
    next();
  } catch (error) {
    next(error);
  }
});
io.on("connection", (socket) => {
  socket.join(["alerts", `user_${socket.data.user}`]);
  socket.emit("ready");
});
server.listen(Number(process.argv[2]), "127.0.0.1");
