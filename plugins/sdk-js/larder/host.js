// The host as a component sees it. The one file that names the contract's imports, so it loads in a component only.

import * as logs from "larder:plugin/log@0.1.0";
import * as settingsOf from "larder:plugin/settings@0.1.0";

// One engine gives the functions of an interface as names, the other as members of the default.
const from = (module, name) => module[name] ?? module.default[name];
const log = from(logs, "log");
const get = from(settingsOf, "get");

let settings;

export const host = {
  // The settings of an instance never change: other settings are another instance.
  settings: () => (settings ??= get()),
  log,
};

if (typeof console === "undefined") {
  const say = (level) => (...words) => log(level, words.map(String).join(" "), []);
  globalThis.console = { debug: say("debug"), log: say("info"), info: say("info"), warn: say("warn"), error: say("error") };
}
