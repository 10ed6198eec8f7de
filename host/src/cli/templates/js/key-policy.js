// A key policy: which requests share one cached value. Larder calls `derive` with every request of a route that names it
// (`key = "{{name}}"`), so it is pure: it may use its settings and the request, the clock stands still.

import { Failure, cache, defineKeyPolicy } from "./larder/larder.js";

export default defineKeyPolicy({
  name: "{{name}}",
  version: "0.1.0",
  description: "Keeps tenants apart by a header.",
  // What the operator may write under [config] in {{name}}.toml. The route also says key_headers = ["x-tenant"].
  settings: { header: { type: "string", default: "x-tenant", description: "the header that names the tenant" } },

  derive(request, { settings }) {
    const tenant = request.headers.get(settings.header);
    if (!tenant) {
      throw new Failure("denied", "tenant-missing", `the header \`${settings.header}\` is needed`);
    }
    return cache({ tenant, key: request.path.get("key"), lang: request.query.get("lang") }, { visibility: "private" });
  },
});
