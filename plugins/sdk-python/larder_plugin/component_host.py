"""The contract's records and SDK values, turned into each other, and what key policies have of the host too. Loads in a
component only."""

import gc
from typing import Any

import plugin as author  # noqa: F401  the author's plugin.py: importing it declares the plugin
from componentize_py_types import Err
from wit_world.imports import log, settings

try:
    # The bindings add the package's name where a world has two interfaces of one name.
    from wit_world.imports import larder_plugin_types as types
except ImportError:
    from wit_world.imports import types

from .declare import Plugin, declared
from .failures import Failure
from .outcomes import Decision, Found, Missing, NotModified, Outcome, Validator, milliseconds

_KINDS = {kind.name.lower().replace("_", "-"): kind for kind in types.FailureKind}


def the_plugin(kind: str, decorator: str) -> Plugin:
    """The one plugin of plugin.py."""
    if [each.kind for each in declared] != [kind]:
        raise TypeError(f"plugin.py declares {len(declared)} plugins; this world wants one function with @{decorator}")
    return declared[0]


def settle() -> None:
    """To be called when everything is imported: what there is now stays, and the garbage collector need not look at it."""
    gc.collect()
    gc.freeze()


_settings: str | None = None


def settings_text() -> str:
    """The settings of this instance. They never change: other settings are another instance."""
    global _settings
    if _settings is None:
        _settings = settings.get()
    return _settings


def say(level: str, message: str, fields: dict[str, Any]) -> None:
    """A line of the operator's log."""
    log.log(log.Level[level.upper()], message, params(fields.items()))


def params(pairs: Any) -> list[types.Param]:
    """Pairs as the contract has them."""
    return [types.Param(str(name), str(value)) for name, value in pairs]


def outcome(value: Outcome) -> types.Outcome:
    """An outcome as the contract has it."""
    if isinstance(value, Found):
        headers = params(value.headers.items()) if value.headers else []
        validator = value.validator and types.Validator(value.validator.etag, value.validator.last_modified_ms)
        return types.Outcome_Found(
            types.Entry(value.status, value.content_type, headers, value.body, validator, value.ttl_ms, value.tags, [])
        )
    if isinstance(value, Missing):
        return types.Outcome_Missing(types.Absence(value.ttl_ms, value.tags, []))
    return types.Outcome_NotModified(types.Renewal(value.ttl_ms, []))


def derivation(decision: Decision) -> types.Derivation:
    """The parts of a decision as the contract has them."""
    visibility = types.Visibility.PRIVATE if decision.private else types.Visibility.PUBLIC
    return types.Derivation(params(decision.parts), visibility, [])


def failure(error: Failure) -> types.Failure:
    """A failure as the contract has it."""
    retry_after = milliseconds(error.retry_after)
    return types.Failure(_KINDS[error.kind], error.code, error.message, retry_after, params(error.details.items()))


def raised(error: Failure) -> Err:
    """What an exported function raises for a failure."""
    return Err(failure(error))


def validator(known: types.Validator | None) -> Validator | None:
    """A validator of the host's."""
    return known and Validator(known.etag, known.last_modified_ms)
