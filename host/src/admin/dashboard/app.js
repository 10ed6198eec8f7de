// Asks for the overview again and again while the page is looked at, and shows it on the page that the address names.
import { ask, setToken, Refused } from "./api.js";
import { card, h } from "./elements.js";
import { entryPage } from "./entry.js";
import { overviewPage, pluginsPage, queuePage, routesPage } from "./pages.js";

const EVERY_MS = 1500;
/** Ten minutes of readings. */
const KEPT = 400;

const main = document.getElementById("main");
const state = document.getElementById("state");
const history = [];
let page = null;

const still = (nodes) => ({ nodes, update() {} });
const PAGES = {
  "": overviewPage, routes: routesPage, plugins: pluginsPage, queue: queuePage,
  entry: () => still(entryPage(decodeURIComponent(location.hash.split("?")[1] ?? ""))),
};

function show() {
  const name = location.hash.replace(/^#\/?/, "").split("?")[0];
  page = (PAGES[name] ?? overviewPage)();
  main.replaceChildren(...page.nodes);
  for (const link of document.querySelectorAll("nav a")) {
    const isHere = link.getAttribute("href").replace(/^#\/?/, "") === name;
    if (isHere) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  document.title = `${document.querySelector("nav a[aria-current]")?.textContent ?? "Larder"} – Larder`;
  if (history.length) page.update(history);
}

function askForToken(why) {
  if (document.getElementById("token")) return;
  page = null;
  const input = h("input", { id: "token", type: "password", autocomplete: "off" });
  main.replaceChildren(card("This listener asks for a token", h("p", { class: "soft" }, why), h("form", {
    onsubmit(event) { event.preventDefault(); setToken(input.value); show(); poll(); },
  }, h("label", { class: "grow", for: "token" }, "The [admin] token", input), h("button", { class: "main" }, "Go on"))));
  input.focus();
}

const say = (text, kind) => { state.textContent = text; state.className = `pill ${kind}`; };

async function poll() {
  try {
    const now = await ask("/overview");
    // A server that was started anew counts from zero.
    if (history.length && now.uptime_ms < history.at(-1).uptime_ms) history.length = 0;
    history.push(now);
    if (history.length > KEPT) history.shift();
    if (now.draining) say("draining", "warn"); else if (now.starting) say("starting", "warn"); else say(`${now.version}, serving`, "good");
    if (!page) show(); else page.update(history);
  } catch (error) {
    if (error instanceof Refused && error.status === 401) { say("no token", "warn"); askForToken(error.message); } else if (error instanceof Refused) say(error.message, "bad");
    else say("not reachable, asking again", "bad");
  }
}

addEventListener("hashchange", () => {
  // The page of an entry writes its path into the address itself.
  if (location.hash.startsWith("#/entry?") && document.getElementById("path")) return;
  show();
  main.focus({ preventScroll: true });
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
setInterval(() => { if (!document.hidden) poll(); }, EVERY_MS);
show();
poll();
