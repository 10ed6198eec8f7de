"""What a load and a derivation come to. Owns how a Python value becomes bytes; knows nothing of the contract's records.

What every load makes is not frozen, though nothing changes it: a frozen dataclass costs several times as much to make. For
the same reason it is made of its fields in their order, and what it takes to encode JSON is made once.
"""

import dataclasses
import datetime
import decimal
import enum
import json
import uuid
from collections.abc import Callable, Iterable
from json.encoder import c_make_encoder, encode_basestring
from typing import Any


@dataclasses.dataclass(frozen=True)
class Validator:
    """What a source can be asked with whether a value has changed.

    `etag` holds its quotes, as RFC 9110 8.8.3 writes it; `last_modified_ms` counts from the Unix epoch.
    """

    etag: str | None = None
    last_modified_ms: int | None = None


class Outcome:
    """What a load comes to: a `Found`, a `Missing` or a `NotModified`."""

    __slots__ = ()


@dataclasses.dataclass(slots=True)
class Found(Outcome):
    """A value. Made by `found`."""

    body: bytes
    content_type: str
    status: int | None
    headers: dict[str, str]
    ttl_ms: int | None
    tags: list[str]
    validator: Validator | None


@dataclasses.dataclass(slots=True)
class Missing(Outcome):
    """An absence. Made by `missing`."""

    ttl_ms: int | None
    tags: list[str]


@dataclasses.dataclass(frozen=True)
class NotModified(Outcome):
    """A renewal. Made by `not_modified`."""

    ttl_ms: int | None


@dataclasses.dataclass(slots=True)
class Decision:
    """The parts of a request. Made by `cache` and `bypass`."""

    cached: bool
    parts: list[tuple[str, str]]
    private: bool


Ttl = float | datetime.timedelta | None

_JSON = "application/json"


def found(
    value: Any,
    *,
    ttl: Ttl = None,
    tags: list[str] | tuple[str, ...] = (),
    etag: str | None = None,
    last_modified_ms: int | None = None,
    status: int | None = None,
    content_type: str | None = None,
    headers: dict[str, str] | None = None,
) -> Found:
    """A value. Bytes are sent as they are, so is a `str` with a `content_type`; all else as JSON.

    `ttl` is in seconds (or a timedelta): none is the route's, 0 answers without storing. `tags` are names to purge it by.
    """
    if isinstance(value, bytes):
        body, kind = value, "application/octet-stream"
    elif isinstance(value, str) and content_type is not None:
        body, kind = value.encode(), content_type
    else:
        body, kind = to_json(value), _JSON
    known = etag is not None or last_modified_ms is not None
    validator = Validator(etag, last_modified_ms) if known else None
    return Found(body, content_type or kind, status, headers or {}, milliseconds(ttl), list(tags), validator)


def missing(*, ttl: Ttl = None, tags: list[str] | tuple[str, ...] = ()) -> Missing:
    """There is no such thing: a 404 that is remembered for `ttl` seconds, else for the route's `missing_ttl`."""
    return Missing(milliseconds(ttl), list(tags))


def not_modified(*, ttl: Ttl = None) -> NotModified:
    """The entry that `ctx.known` stands for is still right, and fresh for `ttl` seconds."""
    return NotModified(milliseconds(ttl))


def cache(parts: Any, *, private: bool = False) -> Decision:
    """Requests with these parts share one value. A value of `None` is left out, a list repeats its name."""
    return Decision(True, _pairs(parts), private)


def bypass(parts: Any, *, private: bool = False) -> Decision:
    """Ask the loader with these parts, and store nothing."""
    return Decision(False, _pairs(parts), private)


def outcome_of(value: Any) -> Outcome:
    """What a loader's return value stands for: `None` is an absence."""
    if value is None:
        return missing()
    if isinstance(value, Outcome):
        return value
    if isinstance(value, bytes):
        return found(value)
    return Found(to_json(value), _JSON, None, {}, None, [], None)


def decision_of(value: Any) -> Decision:
    """What a key policy's return value stands for."""
    return value if isinstance(value, Decision) else cache(value)


def milliseconds(seconds: Ttl) -> int | None:
    """Seconds or a timedelta in whole milliseconds."""
    if seconds is None:
        return None
    if isinstance(seconds, datetime.timedelta):
        seconds = seconds.total_seconds()
    return max(0, round(seconds * 1000))


def to_json(value: Any) -> bytes:
    """JSON as it is sent. Dataclasses, enums, dates, decimals and UUIDs have their usual forms."""
    try:
        encode = _at_rest.pop()
    except IndexError:
        encode = _encoder()
    text = "".join(encode(value, 0))
    _at_rest.append(encode)
    return text.encode()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | uuid.UUID):
        return str(value)
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    raise TypeError(f"a value of the type {type(value).__name__} has no JSON form")


def _encoder() -> Callable[[Any, int], Iterable[str]]:
    """What `json.JSONEncoder` makes anew for each value: writes the parts of a text, and notes what it is within."""
    if c_make_encoder is None:
        encoder = json.JSONEncoder(default=_plain, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return lambda value, _: encoder.iterencode(value)
    return c_make_encoder({}, _plain, encode_basestring, None, ":", ",", False, False, False)


#: The encoders that nobody uses. One that fails does not come back: it would still note what it was within.
_at_rest = [_encoder()]


def _pairs(parts: Any) -> list[tuple[str, str]]:
    pairs = parts.items() if hasattr(parts, "items") else parts
    found: list[tuple[str, str]] = []
    for name, value in pairs:
        values = value if isinstance(value, list | tuple) else [value]
        found.extend((name, str(each)) for each in values if each is not None)
    return found
