// What a key policy's component exports: the author's plugin.js, in the contract's words.

import plugin from "../plugin.js";
import { host } from "./host.js";
import { derive, describe } from "./larder.js";

export const keyPolicy = { derive: (request) => derive(plugin, request, host) };
export const metadata = { describe: () => describe(plugin) };
