// What the peers of Node.js share: the source, and the server of Node.js itself. Owns HTTP; must not know where answers
// are kept.

import { createServer } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

const TEXT = process.env.TEXT ?? "Data for key {key}";
const LATENCY_MS = Number(process.env.LATENCY_MS ?? 150);
const PORT = Number(process.env.PORT ?? 8080);
const PREFIX = "/data/";

export const TTL_SECONDS = Number(process.env.TTL_SECONDS ?? 60);

// The slow source.
export async function load(key) {
  if (LATENCY_MS > 0) await sleep(LATENCY_MS);
  return JSON.stringify({ data: TEXT.replace("{key}", key) });
}

// Serves what `answer` makes of a key, a string or a buffer, until the process is killed.
export function serve(answer) {
  const server = createServer(async (request, response) => {
    if (!request.url.startsWith(PREFIX)) return response.writeHead(404).end();
    try {
      const body = await answer(request.url.slice(PREFIX.length));
      response.writeHead(200, {
        "content-type": "application/json",
        "content-length": Buffer.byteLength(body),
      });
      response.end(body);
    } catch (error) {
      response.writeHead(502).end(String(error));
    }
  });
  server.listen(PORT, "127.0.0.1");
}
