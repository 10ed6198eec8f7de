// A loader: where the data of a route comes from. Larder calls `load` for what it does not hold, and caches the answer.

import { defineLoader } from "./larder/larder.js";

export default defineLoader({
  name: "{{name}}",
  version: "0.1.0",
  description: "Greets whoever is named by the key.",
  // What `load` gets. Larder checks requests by it, and answers 422 to what does not fit.
  parameters: { key: { type: "string", description: "who is greeted" } },
  // What the operator may write under [config] in {{name}}.toml.
  settings: { greeting: { type: "string", default: "Hello", description: "the word before the name" } },
  response: { type: "object", properties: { message: { type: "string" } }, required: ["message"] },

  load({ key }, { settings }) {
    return { message: `${settings.greeting}, ${key}` };
  },
});
