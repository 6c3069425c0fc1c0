// Publishes through Socket.IO's Redis emitter what comes on standard input, a line `channel TAB event` each.
import { createInterface } from "node:readline";
import { Emitter } from "@socket.io/redis-emitter";
import { createClient } from "redis";

const client = createClient({ url: process.env.REDIS_URL });
await client.connect();
const emitter = new Emitter(client);
for await (const line of createInterface({ input: process.stdin })) {
  const [channel, event] = line.split("\t");
  emitter.to(channel).emit("event", JSON.parse(event));
}
await client.close();
