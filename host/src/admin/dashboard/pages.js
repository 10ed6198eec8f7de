// What is shown of two overviews, one after the other: rates are what lies between them.
import { ask } from "./api.js";
import { chart } from "./charts.js";
import { bytes, card, clock, facts, h, number, percent, pill, seconds, span, table } from "./elements.js";

const OUTCOMES = ["hit", "stale", "miss", "bypass", "failure", "write", "refused", "left"];
const sum = (counts) => Object.values(counts ?? {}).reduce((all, one) => all + one, 0);

/** What came between two readings of a route: counts by outcome and detail, durations. */
export function between(now, before) {
  const answers = {};
  for (const outcome of OUTCOMES) {
    answers[outcome] = {};
    for (const [detail, count] of Object.entries(now.answers[outcome] ?? {})) {
      answers[outcome][detail] = count - (before?.answers[outcome]?.[detail] ?? 0);
    }
  }
  const durations = {
    count: now.durations.count - (before?.durations.count ?? 0),
    buckets: now.durations.buckets.map(([end, count], i) => [end, count - (before?.durations.buckets[i]?.[1] ?? 0)]),
  };
  return { requests: now.requests - (before?.requests ?? 0), answers, durations };
}

/** The duration that this share took no longer than: the end of its bucket; none where nothing was measured. */
export function quantile(durations, share) {
  if (!durations.count) return null;
  const found = durations.buckets.find(([, count]) => count >= share * durations.count);
  return found ? found[0] : Infinity;
}

export const quantileText = (durations, share) => {
  const value = quantile(durations, share);
  return value === Infinity ? "> 2.5 s" : value == null ? "–" : `≤ ${seconds(value)}`;
};

/** What an operator should look at, the worst first: [kind, sentence]. */
export function attention(now) {
  const found = [];
  for (const plugin of now.plugins) {
    const kind = plugin.state === "broken" || plugin.state === "quarantined" ? "bad" : "warn";
    if (plugin.state !== "ready" || plugin.error) found.push([kind, `Plugin ${plugin.name} is ${plugin.state}${plugin.error ? `: ${plugin.error}` : ""}`]);
  }
  if (now.redis && !now.redis.available) found.push(["warn", `Redis is not to be had: ${now.redis.error ?? "its breaker is open"}. Requests are answered from memory and from the sources`]);
  if (now.redis?.pending_purges) found.push(["warn", `${now.redis.pending_purges} purges are yet to be told to Redis`]);
  for (const route of now.routes) {
    const last = route.last_failure;
    if (last && now.now_ms - last.at_ms < 60000) found.push(["warn", `Route ${route.route} failed ${span(now.now_ms - last.at_ms)} ago, ${last.code}: ${last.message}`]);
  }
  if (now.queue?.dead) found.push(["warn", `${now.queue.dead} changes were given up: see Queue`]);
  if (now.queue?.error) found.push(["bad", `The queue: ${now.queue.error}`]);
  return found.sort((a, b) => (a[0] === b[0] ? 0 : a[0] === "bad" ? -1 : 1));
}

function totals(history, window) {
  const now = history.at(-1);
  const before = history.length > 1 ? history[Math.max(0, history.length - 1 - window)] : null;
  const routes = now.routes.map((route) => [route, between(route, before?.routes.find((other) => other.route === route.route))]);
  const elapsed = before ? Math.max(1, now.now_ms - before.now_ms) / 1000 : Math.max(1, now.uptime_ms / 1000);
  return { now, routes, elapsed };
}

const figure = (name, value, more) => h("div", { class: "figure" }, h("dt", {}, name), h("dd", {}, value, h("small", {}, more ?? "")));

/** The first page. */
export function overviewPage() {
  const figures = h("dl", { class: "figures" });
  const list = h("ul", { class: "attention" });
  const rates = chart("Requests a second", [["hits", "--good"], ["stale", "--warn"], ["misses", "--mark"], ["failures", "--bad"]], "");
  const ratio = chart("Answered from a cache", [["memory", "--good"], ["memory and Redis", "--mark"]], "%");
  const update = (history) => {
    const { now, routes, elapsed } = totals(history, 10);
    const count = (outcome, detail) => routes.reduce((all, [, it]) => all + (detail ? it.answers[outcome][detail] ?? 0 : sum(it.answers[outcome])), 0);
    const requests = routes.reduce((all, [, it]) => all + it.requests, 0);
    const read = requests - count("write") - count("refused");
    const durations = routes.map(([, it]) => it.durations).reduce((all, it) => ({
      count: all.count + it.count, buckets: it.buckets.map(([end, n], i) => [end, n + (all.buckets[i]?.[1] ?? 0)]),
    }), { count: 0, buckets: [] });
    figures.replaceChildren(
      figure("Requests", `${number(requests / elapsed, 1)} /s`, `over the last ${number(elapsed)} s`),
      figure("From memory", percent(count("hit", "memory"), read), `Redis ${percent(count("hit", "redis"), read)}`),
      figure("95 % of the others", quantileText(durations, 0.95), "what memory did not answer"),
      figure("Stale", percent(count("stale"), read), `failed ${percent(count("failure"), requests)}`),
      figure("Memory tier", bytes(now.memory.bytes), `${number(now.memory.entries)} entries, ${bytes(now.memory.capacity)} at most`),
      figure("Loads now", number(now.in_flight.loads), `${number(now.in_flight.waiters)} wait`),
      figure("Redis", now.redis ? (now.redis.available ? "up" : "away") : "none", now.redis ? `${now.redis.pending_purges} purges pending` : "memory alone"),
      figure("Queue", now.queue ? number(now.queue.pending ?? 0) : "none", now.queue ? `${number(now.queue.dead ?? 0)} given up` : "nothing writes behind"),
    );
    const found = attention(now);
    list.replaceChildren(...(found.length ? found.map(([kind, text]) => h("li", { class: kind }, text)) : [h("li", { class: "good" }, "Nothing: every plugin is ready and no route failed within a minute.")]));
    const points = history.slice(1).map((sample, i) => {
      const of = sample.routes.map((route) => between(route, history[i].routes.find((other) => other.route === route.route)));
      const all = (outcome, detail) => of.reduce((sofar, it) => sofar + (detail ? it.answers[outcome][detail] ?? 0 : sum(it.answers[outcome])), 0);
      const time = Math.max(1, sample.now_ms - history[i].now_ms) / 1000;
      const reads = of.reduce((sofar, it) => sofar + it.requests, 0) - all("write") - all("refused");
      const share = (n) => (reads > 0 ? (100 * n) / reads : null);
      return [sample.now_ms / 1000, all("hit") / time, all("stale") / time, all("miss") / time, all("failure") / time,
        share(all("hit", "memory")), share(all("hit", "memory") + all("hit", "redis"))];
    });
    const column = (i) => points.map((point) => point[i]);
    rates.show([column(0), column(1), column(2), column(3), column(4)]);
    ratio.show([column(0), column(5), column(6)]);
  };
  return { nodes: [figures, card("What needs attention", list), h("div", { class: "pair" }, h("div", { class: "card" }, rates.element), h("div", { class: "card" }, ratio.element))], update };
}

/** Routes: rates, hit ratio, durations, why loads fail. */
export function routesPage() {
  const body = h("div");
  const update = (history) => {
    const { routes, elapsed, now } = totals(history, 30);
    const rows = routes.map(([route, it]) => {
      const last = route.last_failure;
      const read = it.requests - sum(it.answers.write) - sum(it.answers.refused);
      const causes = Object.entries(route.failures).sort((a, b) => b[1] - a[1]).map(([code, count]) => `${code} ${number(count)}`).join(", ");
      return [h("code", {}, route.route), route.loaders.join(", "), number(it.requests / elapsed, 1), percent(sum(it.answers.hit), read), percent(sum(it.answers.stale), read),
        percent(sum(it.answers.failure), it.requests), quantileText(it.durations, 0.5), quantileText(it.durations, 0.95), quantileText(it.durations, 0.99),
        h("td", { class: "wide" }, last ? `${causes}. ${span(now.now_ms - last.at_ms)} ago: ${last.message}` : "never")];
    });
    body.replaceChildren(table("Routes", [["route"], ["loaders"], ["requests/s", true], ["hits", true], ["stale", true], ["failed", true], ["50 %", true], ["95 %", true], ["99 %", true], ["failures since the start"]], rows),
      h("p", { class: "soft" }, `Over the last ${number(elapsed)} s. Durations are those of requests that the memory tier did not answer: the load, and waiting for it.`));
  };
  return { nodes: [card("Routes", body)], update };
}

const STATES = { ready: "good", degraded: "warn", restarting: "warn", loading: "", broken: "bad", quarantined: "bad", retired: "" };

/** Plugins: how they are, what they cost, what they said. */
export function pluginsPage() {
  const body = h("div");
  const note = h("p", { role: "status" });
  const open = new Set();
  const reload = (name) => async () => {
    try { await ask(`/plugins/${encodeURIComponent(name)}/reload`, null); note.replaceChildren(pill(`${name} was judged anew and is served`, "good")); }
    catch (error) { note.replaceChildren(pill(error.message, "bad")); }
  };
  const one = (plugin) => {
    const id = `plugin-${plugin.name}`;
    const log = plugin.log?.map((line) => `${clock(line.at_ms)} ${line.level} ${line.message}`).join("\n");
    const toggle = (event) => (event.target.open ? open.add(id) : open.delete(id));
    return h("section", { class: "card", id },
      h("h2", {}, plugin.name, " ", pill(plugin.state, STATES[plugin.state] ?? "")),
      plugin.error ? h("p", { class: "bad" }, plugin.error) : null,
      facts([
        ["version", `${plugin.version ?? "none of its own"}, ${plugin.kinds.join(", ") || "kind unknown"}`],
        ["digest", h("code", {}, plugin.digest ? plugin.digest.slice(0, 16) : "–")],
        ...(plugin.calls == null ? [] : [
          ["calls", `${number(plugin.calls)}, of which ${number(plugin.failures)} failed and ${number(plugin.faults)} trapped or passed a limit`],
          ["durations", `50 % ${quantileText(plugin.durations, 0.5)}, 95 % ${quantileText(plugin.durations, 0.95)}, 99 % ${quantileText(plugin.durations, 0.99)}`],
          ["memory", `${bytes(plugin.memory_peak)} at most of ${bytes(plugin.memory_limit)} an instance; instances: ${plugin.alive} now, ${plugin.instances} at most for its loader`],
          ["queue", `${number(plugin.waiting)} calls wait, ${number(plugin.shed)} were turned away`],
          ["processor", `${seconds(plugin.busy_seconds)} since it was loaded`],
          ["breaker", pill(plugin.breaker, plugin.breaker === "open" ? "bad" : "good")],
        ])]),
      h("details", { open: open.has(id), ontoggle: toggle }, h("summary", {}, "What it logged"), h("pre", { tabindex: "0" }, log || "nothing")),
      h("div", { class: "buttons" }, h("button", { onclick: reload(plugin.name) }, "Judge its files now")));
  };
  const update = (history) => {
    const now = history.at(-1);
    const focused = document.activeElement?.closest?.("section")?.id;
    const events = card("Versions taken into service, refused and removed",
      table("Events", [["when"], ["plugin"], ["result"], ["detail"]], now.reloads.toReversed().map((event) => [clock(event.at_ms), event.plugin,
        pill(event.result, event.result === "refused" ? "bad" : ""), h("td", { class: "wide" }, event.detail)])));
    events.classList.add("whole");
    body.replaceChildren(...now.plugins.map(one), events);
    if (focused) document.getElementById(focused)?.querySelector("button")?.focus();
  };
  body.className = "pair";
  return { nodes: [note, body], update };
}

/** The queue of changes, and those that were given up. */
export function queuePage() {
  const depth = h("div");
  const dead = h("div");
  const note = h("p", { role: "status" });
  const act = (path, body, done) => async () => {
    try { const answer = await ask(path, body); note.replaceChildren(pill(done(answer), "good")); } catch (error) { note.replaceChildren(pill(error.message, "bad")); }
    await letters();
  };
  const letters = async () => {
    try {
      const answer = await ask("/queue/dead?limit=100");
      const list = answer.dead;
      const parts = (letter) => (letter.parts ?? []).map((part) => `${part.name}=${part.value}`).join(" ");
      const row = (letter) => [clock(letter.dead_ms), h("td", { class: "wide" }, h("code", {}, `${letter.method} ${letter.route} ${parts(letter)}`)),
        h("td", { class: "wide" }, `${letter.reason?.code ?? ""}: ${letter.reason?.message ?? ""}${letter.superseded ? " A later change of it was made since." : ""}`),
        h("span", { class: "buttons" },
          h("button", { onclick: act("/queue/dead/retry", { id: letter.id, force: Boolean(letter.superseded) }, () => "It is tried again") }, letter.superseded ? "Retry all the same" : "Retry"),
          h("button", { class: "danger", onclick: act("/queue/dead/drop", { id: letter.id }, () => "It is dropped") }, "Drop"))];
      dead.replaceChildren(list.length ? table("Changes that were given up", [["when"], ["change"], ["why"], ["what to do"]], list.map(row)) : h("p", { class: "soft" }, "None."));
    } catch (error) { dead.replaceChildren(h("p", { class: "soft" }, error.message)); }
  };
  letters();
  const update = (history) => {
    const { queue } = history.at(-1);
    depth.replaceChildren(!queue ? h("p", { class: "soft" }, "No route writes behind, so there is no queue.") : queue.error ? h("p", { class: "bad" }, queue.error) : facts([
      ["where", queue.kind], ["pending", `${number(queue.pending)} of ${number(queue.max_pending)}`], ["bytes", `${bytes(queue.bytes)} of ${bytes(queue.max_bytes)}`],
      ["the oldest", queue.oldest_ms ? `${span(history.at(-1).now_ms - queue.oldest_ms)} old` : "–"], ["given up", number(queue.dead)]]));
  };
  return { nodes: [note, card("Queue", depth), card("Given up", dead)], update };
}
