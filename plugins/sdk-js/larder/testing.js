// How a plugin is tested without Wasm: the SDK's own conversions, with settings and secrets that the test names.

import { derive, load } from "./larder.js";
import { utf8 } from "./utf8.js";

/**
 * Loads what these parts ask for, and gives the outcome as a reader sees it: `{ outcome, status, contentType, headers, body,
 * json, ttlMs, tags, validator }`. Rejects with the failure if there is none.
 *
 * @param {object} plugin what defineLoader() gave
 * @param {Record<string, string>} parts
 * @param {{settings?: object, secrets?: Record<string, string>, known?: object, route?: string}} [given]
 */
export async function ask(plugin, parts, given = {}) {
  const target = {
    route: given.route ?? "/{key}",
    parts: Object.entries(parts).map(([name, value]) => ({ name, value: String(value) })),
    deadlineMs: 2000,
    traceparent: null,
    hints: [],
  };
  const { tag, val } = await load(plugin, { target, known: given.known ?? null }, hostOf(given));
  const body = val.body && utf8.decode(val.body);
  const json = val.contentType === "application/json" ? JSON.parse(body) : undefined;
  return { outcome: tag, ...val, body, json };
}

/**
 * Derives the parts of a request: `{ outcome, parts, visibility }`, or `{ outcome: "reject", failure }`.
 *
 * @param {object} plugin what defineKeyPolicy() gave
 * @param {{route?: string, path?: object, query?: [string, string][], headers?: object}} request
 * @param {{settings?: object}} [given]
 */
export function decide(plugin, request, given = {}) {
  const params = (pairs) => pairs.map(([name, value]) => ({ name, value }));
  const asked = {
    method: "GET",
    route: request.route ?? "/{key}",
    path: params(Object.entries(request.path ?? {})),
    query: params(request.query ?? []),
    headers: params(Object.entries(request.headers ?? {})),
  };
  const { tag, val } = derive(plugin, asked, hostOf(given));
  if (tag === "reject") {
    return { outcome: tag, failure: val };
  }
  return { outcome: tag, parts: val.parts.map(({ name, value }) => [name, value]), visibility: val.visibility };
}

function hostOf({ settings = {}, secrets = {} }) {
  return {
    settings: () => JSON.stringify(settings),
    secret: (name) => {
      if (!(name in secrets)) throw new Error(`the test names no secret ${name}`);
      return secrets[name];
    },
    log: (level, message) => (level === "error" ? console.error(message) : undefined),
  };
}
