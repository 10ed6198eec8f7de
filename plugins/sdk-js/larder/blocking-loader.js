// What a blocking loader's component exports: the author's plugin.js, in the contract's words.

import * as secrets from "larder:plugin/secrets@0.1.0";

import plugin from "../plugin.js";
import { host } from "./host.js";
import { Failure, describe, load } from "./larder.js";

const get = secrets.get ?? secrets.default.get;

function secret(name) {
  try {
    return get(name);
  } catch (error) {
    const why = error?.payload ?? error;
    if (why === "not-granted") {
      const line = `${name} = { env = "…" }`;
      throw new Failure("internal", "secret-not-granted", `the plugin asks for the secret \`${name}\`; add \`${line}\` to [secrets] of the sidecar`);
    }
    throw new Failure("internal", "secret-unavailable", `the secret \`${name}\` cannot be had; set the variable, or write the file, that [secrets] of the sidecar names`);
  }
}

const here = { ...host, secret };

export const blockingLoader = { load: (question) => load(plugin, question, here) };
export const metadata = { describe: () => describe(plugin) };
