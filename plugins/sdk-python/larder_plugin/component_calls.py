"""How a call of an async export begins. Loads in a component only.

componentize-py makes a task of the call, and runs it in a turn of its event loop. Most loads end without having waited, so
here the task runs while it is made, and only what waits gets to the loop. The names with `_` are not promised to anyone:
`requirements.txt` names the version that has them, and another that has not would fail while the component is built.
"""

from asyncio import Task
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

import componentize_py_async_support as support
from componentize_py_async_support import _future_state, _FutureState, _loop, _poll, _return_result


def begin(export_index: int, borrows: int, coroutine: Coroutine[Any, Any, Any]) -> int:
    """Runs a call until it ends or waits, and says which, in the component model's code."""
    state = _FutureState(None, {}, [], 1)
    context = Context()
    context.run(_future_state.set, state)
    Task(_return_result(export_index, borrows, coroutine), loop=_loop, context=context, eager_start=True)
    return _poll(state)


def install() -> None:
    """Has every call of an async export begin so."""
    support.first_poll = begin
