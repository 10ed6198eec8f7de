import assert from "node:assert/strict";
import { test } from "node:test";

import { ask } from "./larder/testing.js";
import plugin from "./plugin.js";

test("greets the key", async () => {
  const answer = await ask(plugin, { key: "42" });
  assert.deepEqual(answer.json, { message: "Hello, 42" });
});

test("greets as the settings say", async () => {
  const answer = await ask(plugin, { key: "42" }, { settings: { greeting: "Ahoy" } });
  assert.deepEqual(answer.json, { message: "Ahoy, 42" });
});
