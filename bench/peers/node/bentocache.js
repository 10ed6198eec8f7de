// Node.js with BentoCache in memory: the library a JavaScript user would pick to have one load per key, and more. Owns
// the cache.
//
// What is kept is a string, which nobody can change, so that it need not be serialized again.

import { BentoCache, bentostore } from "bentocache";
import { memoryDriver } from "bentocache/drivers/memory";

import { load, serve, TTL_SECONDS } from "./server.js";

const memory = memoryDriver({ maxItems: 100_000, serialize: false });
const cache = new BentoCache({ default: "data", stores: { data: bentostore().useL1Layer(memory) } });

serve((key) => cache.getOrSet({ key, factory: () => load(key), ttl: TTL_SECONDS * 1000 }));
