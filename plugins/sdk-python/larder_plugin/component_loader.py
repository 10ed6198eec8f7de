"""What a loader's component exports: the author's plugin.py, in the contract's words. Loads in a component only."""

import asyncio
import inspect
import os
import random
from collections.abc import Coroutine
from typing import Any

from wit_world import exports
from wit_world.exports.metadata import Description
from wit_world.imports import larder_plugin_types as types
from wit_world.imports import monotonic_clock, secrets
from componentize_py_types import Err

from . import component_calls, component_http
from . import component_host as contract
from .context import Response
from .failures import Internal, failure_of


async def owned(work: Coroutine[Any, Any, Any]) -> Any:
    """Awaits work that waits in the host.

    It runs to its end even if nobody waits for it any more (a sibling in `asyncio.gather` failed): a call of the component
    must not end before what it asked of the host has.
    """
    future = asyncio.get_running_loop().create_future()

    async def run() -> None:
        try:
            result = await work
        except Exception as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(result)

    component_calls.spawn(run())
    return await future


async def sleep(delay: float, result: Any = None) -> Any:
    """`asyncio.sleep`, which this event loop has no timers for."""
    if delay > 0:
        await owned(monotonic_clock.wait_for(int(delay * 1e9)))
    return result


asyncio.sleep = sleep
component_calls.install()


class Host:
    """The host of a loader."""

    settings = staticmethod(contract.settings_text)
    log = staticmethod(contract.say)

    def secret(self, name: str) -> str:
        try:
            return secrets.get(name)
        except Err as error:
            if error.value == secrets.SecretError.NOT_GRANTED:
                line = f'{name} = {{ env = "…" }}'
                raise Internal(
                    "secret-not-granted",
                    f"the plugin asks for the secret `{name}`; add `{line}` to [secrets] of the sidecar",
                ) from None
            raise Internal(
                "secret-unavailable",
                f"the secret `{name}` cannot be had; set the variable, or write the file, that [secrets] of the sidecar names",
            ) from None

    async def fetch(self, *arguments: Any) -> Response:
        return await owned(component_http.fetch(*arguments))


host = Host()
plugin = contract.the_plugin("loader", "loader")


class Loader(exports.Loader):
    async def load(self, question: types.Question) -> types.Outcome:
        target = question.target
        try:
            parts = [(part.name, part.value) for part in target.parts]
            known = question.known and contract.validator(question.known)
            value = await plugin.load(parts, host, target.route, target.deadline_ms, known, target.traceparent)
            return contract.outcome(value)
        except Exception as error:
            failed = contract.raised(failure_of(error, contract.say))
        # Out here it does not hold the error, nor through its traceback the frames that hold it: see `component_calls`.
        raise failed


class Lifecycle(exports.Lifecycle):
    async def start(self) -> None:
        # The state of `random` was made when the component was built, and is the same in every copy of it.
        random.seed(os.urandom(32))
        await called(plugin.start)

    async def probe(self) -> None:
        await called(plugin.probe)

    async def stop(self) -> None:
        pass


async def called(hook: Any) -> None:
    try:
        context = plugin.context(host)
        if hook is not None:
            value = hook(context)
            if inspect.isawaitable(value):
                await value
    except Exception as error:
        raise contract.raised(failure_of(error, contract.say)) from None


class Metadata(exports.Metadata):
    def describe(self) -> Description:
        return Description(plugin.name, plugin.version, plugin.cache_version, plugin.descriptor())


contract.settle()
