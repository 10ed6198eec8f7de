"""Why there is no outcome: an exception for each kind of failure, and what other exceptions count as."""

import traceback


class Failure(Exception):
    """A failure of the contract. Raise one of its subclasses.

    `code` is a stable word for programs (lower-case letters, digits and `-`), `message` one sentence for people: clients
    see both, so they hold no secrets. `retry_after` is in seconds.
    """

    kind = "internal"

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retry_after: float | None = None,
        details: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.details = details or {}


class InvalidRequest(Failure):
    """The parameters make no sense to the source: 422."""

    kind = "invalid-request"


class Denied(Failure):
    """The source knows the asker and refuses: 502; from a key policy 403."""

    kind = "denied"


class Conflict(Failure):
    """A write does not fit the state of the source."""

    kind = "conflict"


class Unavailable(Failure):
    """The source is down, unreachable, or broke off: 502."""

    kind = "unavailable"


class TimedOut(Failure):
    """The source did not answer in time: 504."""

    kind = "timeout"


class RateLimited(Failure):
    """The source asks for fewer requests: 429."""

    kind = "rate-limited"


class Internal(Failure):
    """The plugin, or its configuration, is at fault: 502."""


def failure_of(error: BaseException, log) -> Failure:
    """The failure that an exception counts as.

    What an unforeseen one says may hold anything, so it goes to the operator's log (`log(level, message, fields)`) and not
    to the client.
    """
    if isinstance(error, Failure):
        return error
    log("error", "".join(traceback.format_exception(error)), {})
    name = type(error).__name__
    if isinstance(error, TimeoutError):
        return TimedOut("source-timeout", "the source did not answer in time")
    if isinstance(error, ConnectionError):
        return Unavailable("source-unreachable", "the source cannot be reached")
    return Internal("plugin-error", f"the plugin raised {name}; its log says more")
