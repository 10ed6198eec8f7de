// Look up a path: what is stored of it, and why it is fresh or stale; purge, expire or reload it.
import { ask } from "./api.js";
import { bytes, card, facts, h, pill, span, table } from "./elements.js";

/** Why an entry is what it is, in a sentence. */
export function why(entry) {
  const age = `loaded ${span(entry.age_ms)} ago for ${span(entry.ttl_ms)}`;
  const { freshness, purged } = entry;
  if (freshness.state === "fresh") return ["good", `fresh for ${span(freshness.left_ms)} more, ${age}`];
  if (freshness.state === "stale") {
    const uses = [freshness.while_revalidate && "while it is reloaded", freshness.if_error && "if a load fails"].filter(Boolean);
    const reason = purged === "expired" ? "a purge ended its ttl" : `past its ttl by ${span(freshness.over_ms)}`;
    return ["warn", `stale, ${reason}; still answered ${uses.join(" and ")}; ${age}`];
  }
  if (purged === "deleted") return ["bad", `dead: purged after it was loaded; ${age}`];
  if (purged === "expired") return ["bad", `dead: a purge ended its ttl and no window is left; ${age}`];
  return ["bad", `dead: past every window; ${age}`];
}

function variant(entry) {
  const [kind, sentence] = why(entry);
  return card(`${entry.kind} in ${entry.tier}`,
    h("p", {}, pill(entry.freshness.state, kind), " ", sentence),
    entry.parts?.length ? table("Parts of the key", [["part"], ["value"]], entry.parts.map((part) => [h("code", {}, part.name), h("code", {}, part.value)])) : null,
    facts([
      ["key", h("code", {}, entry.key)],
      ["body", `${bytes(entry.bytes)} of ${entry.content_type ?? "no type"}, status ${entry.status}, ${entry.visibility}`],
      ["loader", entry.current ? entry.loader : `${entry.loader}, as it was before; what is served now has a key of its own`],
      ["entity tag", h("code", {}, entry.etag)],
      ["tags", entry.tags.length ? entry.tags.join(", ") : "none"],
      ["windows", `while it is reloaded ${span(entry.stale_while_revalidate_ms)}, if a load fails ${span(entry.stale_if_error_ms)}`],
      ["stamp", String(entry.stamp)],
    ]));
}

/** The page. `path` is what to look up at once. */
export function entryPage(path) {
  const found = h("div", { "aria-live": "polite" });
  const input = h("input", { id: "path", name: "path", placeholder: "/data/42", value: path ?? "", autocomplete: "off", spellcheck: "false" });
  const say = (kind, text) => h("p", { class: `pill ${kind}`, role: "status" }, text);
  const look = async (note) => {
    const wanted = input.value.trim();
    if (!wanted) return;
    location.replace(`#/entry?${encodeURIComponent(wanted)}`);
    try {
      const answer = await ask(`/entries?path=${encodeURIComponent(wanted)}`);
      found.replaceChildren(...[note, actions(wanted), h("p", { class: "soft" }, `Route ${answer.route}: ${answer.entries.length || "nothing is"} stored`),
        ...answer.entries.map(variant)].filter(Boolean));
    } catch (error) {
      found.replaceChildren(say("bad", error.message));
    }
  };
  const then = (what, done) => async () => {
    try { await look(say("good", done(await what()))); } catch (error) { await look(say("bad", error.message)); }
  };
  const actions = (wanted) => h("div", { class: "buttons" },
    h("button", { class: "danger", id: "purge", onclick: then(() => ask("/purge", { path: wanted }), (answer) => `Purged, at seq ${answer.seq}`) }, "Purge"),
    h("button", { id: "expire", onclick: then(() => ask("/purge", { path: wanted, mode: "expire" }), (answer) => `Expired, at seq ${answer.seq}`) }, "Expire"),
    h("button", { id: "reload", onclick: then(async () => {
      await ask("/purge", { path: wanted, mode: "expire" });
      return ask("/warm", { paths: [wanted] });
    }, (answer) => (answer.failed ? `It could not be loaded: ${answer.failures[0].detail}` : "Loaded anew")) }, "Reload"));
  if (path) look();
  return [card("Look up a path", h("form", { onsubmit: (event) => { event.preventDefault(); look(); } },
    h("label", { class: "grow", for: "path" }, "Path of a request", input), h("button", { class: "main" }, "Look up"))), found];
}
