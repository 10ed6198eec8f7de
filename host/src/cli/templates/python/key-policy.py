"""A key policy: which requests share one cached value. Larder calls it with every request of a route that names it
(`key = "{{name}}"`), so it is pure: it may use its settings and the request, and the clock stands still."""

from dataclasses import dataclass
from typing import Annotated

from larder_plugin import Context, Denied, Request, cache, key_policy


@dataclass
class Settings:
    """What the operator may write under [config] in {{name}}.toml. The route also says key_headers = ["x-tenant"]."""

    header: Annotated[str, "the header that names the tenant"] = "x-tenant"


@key_policy(name="{{name}}", version="0.1.0", settings=Settings)
def derive(request: Request, ctx: Context):
    """Keeps tenants apart by a header."""
    tenant = request.headers.first(ctx.settings.header)
    if not tenant:
        raise Denied("tenant-missing", f"the header `{ctx.settings.header}` is needed")
    parts = {"tenant": tenant, "key": request.path.first("key"), "lang": request.query.first("lang")}
    return cache(parts, private=True)
