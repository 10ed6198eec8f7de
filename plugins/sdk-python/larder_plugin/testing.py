"""How a plugin is tested without Wasm: the SDK's own conversions, with settings, secrets and answers that the test names."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from .context import Response
from .declare import plugin_of
from .failures import Internal, Unavailable
from .outcomes import Decision, Found, Outcome, Validator
from .requests import Pairs, Request


class TestHost:
    """The host as a test says it is."""

    __test__ = False

    def __init__(self, settings: dict[str, Any], secrets: dict[str, str], answers: dict[str, Response]):
        self._settings = json.dumps(settings)
        self._secrets = secrets
        self._answers = answers
        self.said: list[tuple[str, str, dict[str, Any]]] = []

    def settings(self) -> str:
        return self._settings

    def secret(self, name: str) -> str:
        if name not in self._secrets:
            raise Internal("secret-not-granted", f"the test names no secret `{name}`")
        return self._secrets[name]

    def log(self, level: str, message: str, fields: dict[str, Any]) -> None:
        self.said.append((level, message, fields))

    async def fetch(
        self, method: str, url: str, headers: list[tuple[str, str]], body: bytes | None, timeout: float | None, body_max: int
    ) -> Response:
        if url not in self._answers:
            raise Unavailable("source-unreachable", f"the test names no answer to {method} {url}")
        return self._answers[url]


def answer(value: Any, status: int = 200, **headers: str) -> Response:
    """An answer of a source: JSON, unless it is bytes. Header names have `_` for `-`."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Response(status, [(name.replace("_", "-"), text) for name, text in headers.items()], body)


def ask(
    load: Callable[..., Any],
    *,
    settings: dict[str, Any] | None = None,
    secrets: dict[str, str] | None = None,
    answers: dict[str, Response] | None = None,
    known: Validator | None = None,
    **parts: str | list[str],
) -> Outcome:
    """Loads what these parts ask for. Raises what the function raises.

    `answers` maps the URLs that the plugin may ask for to what they answer.
    """
    host = TestHost(settings or {}, secrets or {}, answers or {})
    pairs = [(name, each) for name, value in parts.items() for each in (value if isinstance(value, list) else [value])]
    return asyncio.run(plugin_of(load).load(pairs, host, known=known, route="/{key}", deadline_ms=2000))


def json_of(outcome: Outcome) -> Any:
    """The value of an outcome that is found."""
    if not isinstance(outcome, Found):
        raise AssertionError(f"there is no value in {outcome}")
    return json.loads(outcome.body)


def decide(
    derive: Callable[..., Any],
    *,
    settings: dict[str, Any] | None = None,
    path: dict[str, str] | None = None,
    query: list[tuple[str, str]] | None = None,
    headers: dict[str, str] | None = None,
) -> Decision:
    """Derives the parts of a request. Raises what the function raises."""
    request = Request(
        path=Pairs((path or {}).items()),
        query=Pairs(query or []),
        headers=Pairs((headers or {}).items()),
    )
    return plugin_of(derive).derive(request, TestHost(settings or {}, {}, {}))
