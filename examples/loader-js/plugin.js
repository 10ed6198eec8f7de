// Holidays by their distance: the days from now until a date, as a blocking loader. Nothing is asked over the network, so
// the small engine does.

import { Failure, defineLoader, found } from "./larder/larder.js";

const DAY_MS = 24 * 60 * 60 * 1000;

export default defineLoader({
  name: "days",
  version: "0.1.0",
  description: "Counts the days between two dates.",
  parameters: {
    key: { type: "string", pattern: "^\\d{4}-\\d{2}-\\d{2}$", description: "the date, as 2027-01-01" },
    from: { type: "string", in: "query", optional: true, description: "the date to count from; today if it is left out" },
    weeks: { type: "boolean", in: "query", default: false, description: "count whole weeks too" },
  },
  settings: { label: { type: "string", default: "{days} days until {date}", description: "the sentence" } },
  response: {
    type: "object",
    required: ["days", "label"],
    properties: { days: { type: "integer" }, weeks: { type: "integer" }, label: { type: "string" } },
  },

  load({ key, from, weeks }, { settings, log }) {
    const today = new Date().toISOString().slice(0, 10);
    const days = Math.round((moment("key", key) - moment("from", from ?? today)) / DAY_MS);
    if (days < 0) {
      return null; // It is over: 404, and remembered as such.
    }
    log.debug("counted", { key, days });
    const label = settings.label.replace("{days}", days).replace("{date}", key);
    const answer = weeks ? { days, weeks: Math.floor(days / 7), label } : { days, label };
    // What counts from today changes at midnight (UTC); what counts from a date never does.
    const ttlMs = from === undefined ? DAY_MS - (Date.now() % DAY_MS) : undefined;
    return found(answer, { ttlMs, tags: [`year:${key.slice(0, 4)}`] });
  },
});

function moment(name, date) {
  const at = Date.parse(`${date}T00:00:00Z`);
  // One engine refuses 31 February, the other takes it for 3 March.
  if (Number.isNaN(at) || new Date(at).toISOString().slice(0, 10) !== date) {
    throw new Failure("invalid-request", "no-such-date", `\`${name}\` is ${date}, which no calendar has`);
  }
  return at;
}
