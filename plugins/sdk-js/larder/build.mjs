// Makes dist/NAME.wasm of a project: `npm run build`. What it makes is said in package.json:
//
//   "larder": { "kind": "blocking-loader" | "key-policy", "engine": "quickjs" | "starlingmonkey" }
//
// QuickJS is small and has no fetch; StarlingMonkey has it, and is eight times as large.

import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const project = dirname(dirname(fileURLToPath(import.meta.url)));
const { name, larder = {} } = JSON.parse(readFileSync(join(project, "package.json"), "utf8"));
const { kind = "blocking-loader", engine = "quickjs" } = larder;
const entry = join(project, "larder", `${kind}.js`);
const wit = join(project, "wit");
const output = join(project, "dist", `${name}.wasm`);

function refuse(why) {
  console.error(`larder/build.mjs: ${why}`);
  process.exit(1);
}

if (!["blocking-loader", "key-policy"].includes(kind)) {
  refuse(`package.json says the kind \`${kind}\`; in JavaScript it is "blocking-loader" or "key-policy"`);
}
if (!["quickjs", "starlingmonkey"].includes(engine)) {
  refuse(`package.json says the engine \`${engine}\`; it is "quickjs" or "starlingmonkey"`);
}
if (kind === "key-policy" && engine !== "quickjs") {
  refuse("a key policy is pure and StarlingMonkey is not; leave `engine` out of package.json");
}

mkdirSync(dirname(output), { recursive: true });
if (engine === "quickjs") {
  const jco = createRequire(import.meta.url).resolve("@bytecodealliance/jco").replace(/api\.js$/, "jco.js");
  const options = ["--wit", wit, "--world-name", kind, "--backend", "quickjs", "--backend-qjs-disable-async"];
  const { status } = spawnSync(process.execPath, [jco, "componentize", entry, "--cwd", project, ...options, "--out", output], { stdio: "inherit" });
  if (status !== 0) process.exit(1);
} else {
  // Through its interface for programs: jco 1.35.0 looks at the WIT before it calls this backend, and fails to read it.
  const { componentize } = await import("@bytecodealliance/componentize-js");
  process.chdir(project);
  const { component } = await componentize({ sourcePath: entry, witPath: wit, worldName: kind });
  writeFileSync(output, component);
}
console.log(`dist/${name}.wasm: ${(statSync(output).size / 1e6).toFixed(1)} MB`);
