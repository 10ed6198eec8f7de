"""How a call of an async export begins, waits and ends. Loads in a component only.

componentize-py makes a task of the call, and runs it in a turn of its event loop. Most loads end without having waited, so
here a task runs while it is made, and only what waits gets to the loop. The names with `_` are not promised to anyone:
`requirements.txt` names the version that has them, and another that has not would fail while the component is built.
"""

from asyncio import Task
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

import componentize_py_async_support as support
from componentize_py_async_support import _CallbackCode, _future_state, _FutureState, _loop, _poll
from componentize_py_runtime import call_task_return
from componentize_py_types import Err, Ok


def begin(export_index: int, borrows: int, work: Coroutine[Any, Any, Any]) -> int:
    """Runs a call until it ends or waits, and says which, in the component model's code."""
    state = _FutureState(None, {}, [], 1)
    context = Context()
    context.run(_future_state.set, state)
    Task(_answer(export_index, borrows, work, state), loop=_loop, context=context, eager_start=True)
    if state.pending_count or state.handles or state.waitable_set is not None or _loop.exception is not None:
        return _poll(state)
    return _CallbackCode.EXIT


async def _answer(export_index: int, borrows: int, work: Coroutine[Any, Any, Any], state: _FutureState) -> None:
    try:
        try:
            result = Ok(await work)
        except Err as error:
            # Its traceback holds this frame, which is about to hold it: only the garbage collector could part them.
            result = error.with_traceback(None)
        call_task_return(export_index, borrows, result)
    except Exception as error:
        _loop.exception = error
    state.pending_count -= 1


def spawn(work: Coroutine[Any, Any, None]) -> None:
    """Runs work until it ends or waits. It belongs to the call: that does not end before it."""
    state = _future_state.get()
    state.pending_count += 1
    Task(_spawned(work, state), loop=_loop, eager_start=True)


async def _spawned(work: Coroutine[Any, Any, None], state: _FutureState) -> None:
    try:
        await work
    except Exception as error:
        _loop.exception = error
    state.pending_count -= 1


def install() -> None:
    """Has every call of an async export begin so."""
    support.first_poll = begin
