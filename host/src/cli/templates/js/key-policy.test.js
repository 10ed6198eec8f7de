import assert from "node:assert/strict";
import { test } from "node:test";

import { decide } from "./larder/testing.js";
import plugin from "./plugin.js";

test("two tenants do not share a value", () => {
  const parts = (tenant) => decide(plugin, { path: { key: "42" }, headers: { "x-tenant": tenant } }).parts;
  assert.deepEqual(parts("a"), [["tenant", "a"], ["key", "42"]]);
  assert.notDeepEqual(parts("a"), parts("b"));
});

test("a request without a tenant is rejected", () => {
  const decision = decide(plugin, { path: { key: "42" } });
  assert.equal(decision.failure.code, "tenant-missing");
});
