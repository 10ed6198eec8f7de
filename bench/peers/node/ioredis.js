// Node.js with cache-aside over ioredis: the handler a JavaScript user would write. Owns the keys in Redis.
//
// Commands of one turn of the event loop go out together (`enableAutoPipelining`), and values stay bytes, as ioredis
// advises for speed.

import { Redis } from "ioredis";

import { load, serve, TTL_SECONDS } from "./server.js";

const PREFIX = "ioredis:";
const redis = new Redis(process.env.REDIS_URL ?? "redis://127.0.0.1:6379/", { enableAutoPipelining: true });

serve(async (key) => {
  // Redis being down is no reason to fail: the source still has the answer.
  const cached = await redis.getBuffer(PREFIX + key).catch(() => null);
  if (cached !== null) return cached;
  const body = await load(key);
  await redis.set(PREFIX + key, body, "EX", TTL_SECONDS).catch(() => null);
  return body;
});
