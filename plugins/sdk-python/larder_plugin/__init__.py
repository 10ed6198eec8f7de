"""The Python SDK: what an author writes with.

One decorated function over plain values becomes what the contract asks for::

    from larder_plugin import loader

    @loader(name="hello")
    async def load(key: str):
        return {"message": f"Hello, {key}"}

Nothing here needs a component around it: a plugin is imported and tested by an ordinary Python (`larder_plugin.testing`).
Only the modules `component_*` do, and `larder plugin build` is who names them.
"""

from .context import Context, Response
from .declare import Plugin, key_policy, loader
from .failures import (
    Conflict,
    Denied,
    Failure,
    Internal,
    InvalidRequest,
    RateLimited,
    TimedOut,
    Unavailable,
)
from .outcomes import Validator, bypass, cache, found, missing, not_modified
from .requests import Request

__all__ = [
    "Conflict",
    "Context",
    "Denied",
    "Failure",
    "Internal",
    "InvalidRequest",
    "Plugin",
    "RateLimited",
    "Request",
    "Response",
    "TimedOut",
    "Unavailable",
    "Validator",
    "bypass",
    "cache",
    "found",
    "key_policy",
    "loader",
    "missing",
    "not_modified",
]
