import assert from "node:assert/strict";
import { test } from "node:test";

import { describe, load } from "./larder/larder.js";
import { ask } from "./larder/testing.js";
import { decode, encode } from "./larder/utf8.js";
import plugin from "./plugin.js";

test("counts the days between two dates", async () => {
  const answer = await ask(plugin, { key: "2027-03-01", from: "2027-02-01", weeks: "true" });
  assert.deepEqual(answer.json, { days: 28, weeks: 4, label: "28 days until 2027-03-01" });
  assert.equal(answer.ttlMs, null);
  assert.deepEqual(answer.tags, ["year:2027"]);
});

test("what counts from today is fresh until midnight", async () => {
  const answer = await ask(plugin, { key: "9999-12-31" });
  assert.ok(answer.ttlMs > 0 && answer.ttlMs <= 24 * 60 * 60 * 1000, `${answer.ttlMs}`);
});

test("a date that is over is an absence, and one that does not exist a failure", async () => {
  assert.equal((await ask(plugin, { key: "2027-01-01", from: "2027-02-01" })).outcome, "missing");
  await assert.rejects(ask(plugin, { key: "2027-02-31" }), { kind: "invalid-request", code: "no-such-date" });
  await assert.rejects(ask(plugin, {}), { kind: "invalid-request", code: "parameter-missing" });
  await assert.rejects(ask(plugin, { key: "2027-01-01", weeks: "maybe" }), { code: "parameter-invalid" });
});

test("the descriptor holds what the host checks by", () => {
  const { name, descriptor } = describe(plugin);
  const { parameters, settings } = JSON.parse(descriptor);
  assert.equal(name, "days");
  assert.deepEqual(parameters.map(({ name, required }) => [name, required]), [["key", true], ["from", false], ["weeks", false]]);
  assert.deepEqual(settings.required, []);
});

test("an unforeseen error tells the client nothing of itself", async () => {
  const said = [];
  const host = { settings: () => "{}", log: (level, message) => said.push(message) };
  const broken = { ...plugin, load: () => { throw new Error("password=hunter2"); } };
  const question = { target: { parts: [{ name: "key", value: "x" }] } };
  assert.throws(() => load(broken, question, host), (failure) => !JSON.stringify(failure).includes("hunter2"));
  assert.match(said.join(), /hunter2/);
});

test("UTF-8 is what a TextEncoder makes of it", () => {
  for (const text of ["", "abc", "é", "€", "𝄞 clef", "a\ud800b", "\udc00", "日本語".repeat(5000)]) {
    assert.deepEqual(encode(text), new TextEncoder().encode(text));
    assert.equal(decode(encode(text)), new TextDecoder().decode(new TextEncoder().encode(text)));
  }
  for (const bytes of [[0xff], [0xc0, 0xaf], [0xe2, 0x82], [0xf0, 0x9f, 0x98, 0x80], [0x80, 0x41]]) {
    const expected = new TextDecoder("utf-8", { ignoreBOM: true }).decode(new Uint8Array(bytes)).replace(/\ufffd+/g, "\ufffd");
    assert.equal(decode(new Uint8Array(bytes)).replace(/\ufffd+/g, "\ufffd"), expected);
  }
});
