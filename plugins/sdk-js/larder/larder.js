// The JavaScript SDK: what an author writes with. Turns one function over plain values into what the contract asks for.
// Knows nothing of components: it runs in Node.js too, so a plugin is tested without Wasm (testing.js).

import { utf8 } from "./utf8.js";

const NAME = Symbol("larder.plugin");

/**
 * Describes a blocking loader. `plugin.js` exports the result as its default.
 *
 * @param {object} loader
 * @param {string} loader.name part of the identity of the entries: with another name they are misses
 * @param {string} [loader.version] for people
 * @param {number} [loader.cacheVersion] raise it when stored entries changed shape
 * @param {string} [loader.description]
 * @param {Record<string, object>} [loader.parameters] by name: a JSON Schema, and beside it `in` (`path`, `query`, `any`),
 *   `default` and `optional`. A parameter without `default` is required unless it is optional.
 * @param {boolean} [loader.additionalParameters] take parts of other names too
 * @param {Record<string, object>} [loader.settings] by name: a JSON Schema, with `default` and `optional` as above
 * @param {object} [loader.response] JSON Schema of the value
 * @param {object} [loader.grants] what the plugin needs, in sentences: `{ http: ["the weather service"] }`
 * @param {(parameters: object, context: object) => any} loader.load gives the value (as JSON), `null` when there is none,
 *   or what found(), missing() and notModified() give; throws a Failure
 */
export function defineLoader(loader) {
  return define("blocking-loader", loader, "load");
}

/**
 * Describes a key policy: which requests share one cached value. It is pure: the clock stands still, and it may use its
 * settings and the request only.
 *
 * @param {object} policy name, version, description and settings as for a loader, and:
 * @param {(request: object, context: object) => any} policy.derive gives the parts as an object (or a list of pairs), or
 *   what cache() and bypass() give; throws a Failure to reject the request
 */
export function defineKeyPolicy(policy) {
  return define("key-policy", policy, "derive");
}

function define(kind, plugin, verb) {
  if (typeof plugin.name !== "string" || typeof plugin[verb] !== "function") {
    throw new TypeError(`a ${kind} needs a name and a function ${verb}`);
  }
  return { [NAME]: kind, version: "0.1.0", cacheVersion: 1, parameters: {}, settings: {}, ...plugin };
}

// ---- What a load comes to -------------------------------------------------------------------------------

const outcome = Symbol("larder.outcome");

/**
 * A value. Bytes (Uint8Array) are sent as they are, so is a string with a `contentType`; all else as JSON.
 *
 * @param {any} value
 * @param {{status?: number, contentType?: string, headers?: Record<string, string>, ttlMs?: number, tags?: string[],
 *   etag?: string, lastModifiedMs?: number}} [options] `ttlMs: 0` answers without storing; `etag` holds its quotes
 */
export function found(value, options = {}) {
  return { [outcome]: "found", value, options };
}

/** There is no such thing: a 404 that is remembered. @param {{ttlMs?: number, tags?: string[]}} [options] */
export function missing(options = {}) {
  return { [outcome]: "missing", options };
}

/** The entry of `context.known` still stands. @param {{ttlMs?: number}} [options] */
export function notModified(options = {}) {
  return { [outcome]: "not-modified", options };
}

/** Why there is no outcome. Clients see the message, so it holds no secrets. */
export class Failure extends Error {
  /**
   * @param {"invalid-request"|"denied"|"conflict"|"unavailable"|"timeout"|"rate-limited"|"internal"} kind
   * @param {string} code a stable word for programs: lower-case letters, digits and `-`
   * @param {string} message one sentence for people
   * @param {{retryAfterMs?: number, details?: Record<string, string>}} [options]
   */
  constructor(kind, code, message, { retryAfterMs, details = {} } = {}) {
    super(message);
    Object.assign(this, { kind, code, retryAfterMs, details });
  }
}

// ---- What a derivation comes to -------------------------------------------------------------------------

/** Requests with these parts share one value. @param {{visibility?: "public"|"private"}} [options] */
export function cache(parts, options = {}) {
  return { [outcome]: "cache", parts, options };
}

/** Ask the loader with these parts, and store nothing. */
export function bypass(parts, options = {}) {
  return { [outcome]: "bypass", parts, options };
}

// ---- Between the contract and plain values --------------------------------------------------------------

/** `metadata.describe`. */
export function describe(plugin) {
  const descriptor = { description: plugin.description, settings: objectSchema(plugin.settings), grants: plugin.grants };
  if (plugin[NAME] !== "key-policy") {
    descriptor.parameters = Object.entries(plugin.parameters).map(([name, parameter]) => ({
      name,
      in: parameter.in ?? "any",
      required: isRequired(parameter),
      description: parameter.description,
      schema: schemaOf(parameter),
    }));
    descriptor.additional_parameters = plugin.additionalParameters === true;
    descriptor.response = plugin.response && { content_type: "application/json", schema: plugin.response };
  }
  return {
    name: plugin.name,
    version: plugin.version,
    cacheVersion: plugin.cacheVersion,
    descriptor: JSON.stringify(descriptor),
  };
}

/**
 * One load. `host` is how the context's abilities are had: `{ settings(): string, secret(name): string,
 * log(level, message, fields) }`. Throws a record of the contract's `failure`.
 */
export function load(plugin, question, host) {
  const { parts, ...target } = question.target;
  const settle = (value) => toOutcome(value === undefined ? missingReturn() : value);
  return guarded(
    host,
    () => {
      const context = {
        ...contextOf(plugin, host),
        known: question.known ? optional(question.known) : null,
        route: target.route,
        deadlineMs: target.deadlineMs,
        traceparent: target.traceparent ?? null,
        parts: parts.map(({ name, value }) => [name, value]),
      };
      return plugin.load(parametersOf(plugin, parts), context);
    },
    settle,
  );
}

/** One derivation; `host` as for load(). */
export function derive(plugin, request, host) {
  const pairs = (list) => new Pairs(list.map(({ name, value }) => [name, value]));
  const asked = {
    method: request.method,
    route: request.route,
    path: pairs(request.path),
    query: pairs(request.query),
    headers: pairs(request.headers),
  };
  try {
    return guarded(host, () => plugin.derive(asked, contextOf(plugin, host)), toDecision);
  } catch (failure) {
    return { tag: "reject", val: failure };
  }
}

/** Name/value pairs in request order; a name may repeat. */
class Pairs extends Array {
  static get [Symbol.species]() {
    return Array;
  }

  constructor(pairs) {
    super();
    this.push(...pairs);
  }

  /** The first value of a name, else `undefined`. */
  get(name) {
    return this.find(([each]) => each === name)?.[1];
  }

  /** Every value of a name. */
  all(name) {
    return this.filter(([each]) => each === name).map(([, value]) => value);
  }
}

// Runs `work` and then `settle`; what either throws is thrown on as a failure of the contract. A promise is awaited:
// the StarlingMonkey engine lets a blocking function be async.
function guarded(host, work, settle) {
  const fail = (error) => {
    throw toFailure(error, host);
  };
  try {
    const value = work();
    return typeof value?.then === "function" ? value.then(settle).catch(fail) : settle(value);
  } catch (error) {
    return fail(error);
  }
}

function contextOf(plugin, host) {
  const log = (level) => (message, fields = {}) => host.log(level, String(message), toParams(fields));
  return {
    settings: settingsOf(plugin, host.settings()),
    secret: host.secret,
    log: { trace: log("trace"), debug: log("debug"), info: log("info"), warn: log("warn"), error: log("error") },
  };
}

const optional = ({ etag, lastModifiedMs }) => ({
  etag: etag ?? null,
  lastModifiedMs: lastModifiedMs == null ? null : Number(lastModifiedMs),
});

const isRequired = (property) => !("default" in property || property.optional === true);

function schemaOf({ in: _in, optional: _optional, description: _description, ...schema }) {
  return schema;
}

function objectSchema(properties) {
  const entries = Object.entries(properties);
  return {
    type: "object",
    additionalProperties: false,
    required: entries.filter(([, property]) => isRequired(property)).map(([name]) => name),
    properties: Object.fromEntries(entries.map(([name, { optional: _, ...property }]) => [name, property])),
  };
}

let made = { plugin: null, text: null, settings: null };

// The settings of an instance never change, so the last ones are kept.
function settingsOf(plugin, text) {
  if (made.plugin !== plugin || made.text !== text) {
    made = { plugin, text, settings: withDefaults(plugin.settings, JSON.parse(text || "{}")) };
  }
  return made.settings;
}

function withDefaults(properties, given) {
  const defaults = Object.entries(properties).filter(([, property]) => "default" in property);
  return { ...Object.fromEntries(defaults.map(([name, property]) => [name, property.default])), ...given };
}

// Parts are text; the schema says what they mean. An array collects what a repeated name says.
function parametersOf(plugin, parts) {
  const given = new Map();
  for (const { name, value } of parts) {
    given.set(name, [...(given.get(name) ?? []), value]);
  }
  const parameters = {};
  for (const [name, parameter] of Object.entries(plugin.parameters)) {
    const values = given.get(name);
    given.delete(name);
    if (values === undefined) {
      if (isRequired(parameter)) {
        throw new Failure("invalid-request", "parameter-missing", `the parameter \`${name}\` is needed`);
      }
      if ("default" in parameter) {
        parameters[name] = parameter.default;
      }
    } else if (parameter.type === "array") {
      parameters[name] = values.map((value) => typed(name, value, parameter.items?.type));
    } else {
      parameters[name] = typed(name, values[0], parameter.type);
    }
  }
  if (plugin.additionalParameters) {
    for (const [name, values] of given) {
      parameters[name] = values[0];
    }
  }
  return parameters;
}

function typed(name, text, type) {
  const number = Number(text);
  switch (type) {
    case "integer":
      if (/^[+-]?\d+$/.test(text) && Number.isSafeInteger(number)) return number;
      break;
    case "number":
      if (text.trim() !== "" && Number.isFinite(number)) return number;
      break;
    case "boolean":
      if (text === "true" || text === "false") return text === "true";
      break;
    default:
      return text;
  }
  throw new Failure("invalid-request", "parameter-invalid", `the parameter \`${name}\` is not of the type ${type}`);
}

function missingReturn() {
  throw new Failure("internal", "no-answer", "the loader returned nothing; return null when there is no such thing");
}

function toOutcome(value) {
  if (value === null) {
    return toOutcome(missing());
  }
  const kind = value?.[outcome];
  const options = value?.options ?? {};
  const common = { ttlMs: options.ttlMs ?? null, tags: options.tags ?? [], hints: [] };
  switch (kind) {
    case "missing":
      return { tag: "missing", val: common };
    case "not-modified":
      return { tag: "not-modified", val: { ttlMs: common.ttlMs, hints: [] } };
    case "found":
      return { tag: "found", val: { ...toBody(value.value, options), ...common } };
    default:
      return toOutcome(found(value));
  }
}

function toBody(value, { status, contentType, headers = {}, etag, lastModifiedMs }) {
  const raw = value instanceof Uint8Array || (typeof value === "string" && contentType !== undefined);
  const text = raw ? value : JSON.stringify(value);
  if (text === undefined) {
    throw new Failure("internal", "no-json", "the loader's value has no JSON form");
  }
  const known = etag !== undefined || lastModifiedMs !== undefined;
  return {
    status: status ?? null,
    contentType: contentType ?? (raw ? "application/octet-stream" : "application/json"),
    headers: toParams(headers),
    body: typeof text === "string" ? utf8.encode(text) : text,
    validator: known ? { etag: etag ?? null, lastModifiedMs: lastModifiedMs ?? null } : null,
  };
}

function toDecision(value) {
  const kind = value?.[outcome] ?? "cache";
  const parts = value?.[outcome] ? value.parts : value;
  if (parts === null || typeof parts !== "object") {
    throw new Failure("internal", "no-parts", "the key policy returned no parts");
  }
  return {
    tag: kind,
    val: { parts: toParams(parts), visibility: value.options?.visibility ?? "public", hints: [] },
  };
}

// An object or a list of pairs; a value that is a list repeats its name, one that is undefined is left out.
function toParams(pairs) {
  const list = Array.isArray(pairs) ? pairs : Object.entries(pairs);
  return list
    .flatMap(([name, value]) => (Array.isArray(value) ? value.map((each) => [name, each]) : [[name, value]]))
    .filter(([, value]) => value !== undefined && value !== null)
    .map(([name, value]) => ({ name, value: String(value) }));
}

function toFailure(error, host) {
  if (error instanceof Failure) {
    const { kind, code, message, retryAfterMs, details } = error;
    return { kind, code, message, retryAfterMs: retryAfterMs ?? null, details: toParams(details) };
  }
  // What an unforeseen error says may hold anything, so it goes to the operator's log and not to the client.
  host.log("error", `${error?.name ?? "error"}: ${error?.message ?? error}\n${error?.stack ?? ""}`, []);
  const message = `the plugin threw ${error?.name ?? typeof error}; its log says more`;
  return { kind: "internal", code: "plugin-error", message, retryAfterMs: null, details: [] };
}
