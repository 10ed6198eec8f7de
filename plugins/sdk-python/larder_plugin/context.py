"""What a call has beside its parameters, and the seam to the host.

`Host` is what a component (or a test) provides; `Context` is what the author sees of it.
"""

import dataclasses
import json
from typing import Any, Protocol

from .outcomes import Validator


@dataclasses.dataclass(frozen=True)
class Response:
    """What a source answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first field of a name, whatever its case."""
        return next((value for each, value in self.headers if each.lower() == name.lower()), None)

    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Host(Protocol):
    """How the abilities of a context are had."""

    def settings(self) -> str: ...
    def secret(self, name: str) -> str: ...
    def log(self, level: str, message: str, fields: dict[str, Any]) -> None: ...
    async def fetch(
        self, method: str, url: str, headers: list[tuple[str, str]], body: bytes | None, timeout: float | None, body_max: int
    ) -> Response: ...


class Log:
    """The operator's log."""

    def __init__(self, host: Host):
        self._host = host

    def trace(self, message: str, **fields: Any) -> None:
        """Says it at the level `trace`."""
        self._host.log("trace", message, fields)

    def debug(self, message: str, **fields: Any) -> None:
        """Says it at the level `debug`."""
        self._host.log("debug", message, fields)

    def info(self, message: str, **fields: Any) -> None:
        """Says it at the level `info`."""
        self._host.log("info", message, fields)

    def warn(self, message: str, **fields: Any) -> None:
        """Says it at the level `warn`."""
        self._host.log("warn", message, fields)

    def error(self, message: str, **fields: Any) -> None:
        """Says it at the level `error`."""
        self._host.log("error", message, fields)


# Each load makes one: see `outcomes` on why it is not frozen.
@dataclasses.dataclass(slots=True)
class Context:
    """What one call has beside its parameters."""

    #: The sidecar's `[config]`, as the plugin's settings class, else as a dict.
    settings: Any
    #: The pattern of the matched route.
    route: str
    #: How long the host waits, in milliseconds from the call.
    deadline_ms: int
    #: The validator of the entry that the host holds: with it the source can be asked whether anything changed.
    known: Validator | None
    #: The host's span (W3C Trace Context), to be passed on.
    traceparent: str | None
    #: Every part as it came.
    parts: list[tuple[str, str]]
    host: Host

    @property
    def log(self) -> Log:
        """The operator's log."""
        return Log(self.host)

    def secret(self, name: str) -> str:
        """A secret of the sidecar. Raises `Internal` if it is not there."""
        return self.host.secret(name)

    async def fetch(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        timeout: float | None = None,
        body_max: int = 8 * 1024 * 1024,
    ) -> Response:
        """Sends a request and reads the whole answer, whatever its status.

        `timeout` bounds each wait for the source, in seconds; none is the time that is left. The origin needs a grant
        (`http` in the sidecar). Raises `Unavailable`, `TimedOut` or `Denied`.
        """
        sent = list((headers or {}).items())
        if self.traceparent and not any(name.lower() == "traceparent" for name, _ in sent):
            sent.append(("traceparent", self.traceparent))
        if timeout is None and self.deadline_ms:
            timeout = self.deadline_ms / 1000
        return await self.host.fetch(method, url, sent, body, timeout, body_max)

    async def get(self, url: str, **options: Any) -> Response:
        """`fetch` with GET."""
        return await self.fetch("GET", url, **options)
