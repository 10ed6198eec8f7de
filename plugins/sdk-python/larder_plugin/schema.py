"""From Python's annotations to JSON Schema, and from text and JSON to the values that they promise. Pure."""

import dataclasses
import datetime
import enum
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

_SIMPLE = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    dict: {"type": "object"},
    list: {"type": "array"},
    type(None): {"type": "null"},
    datetime.date: {"type": "string", "format": "date"},
    datetime.datetime: {"type": "string", "format": "date-time"},
}


class Unfit(ValueError):
    """A value is not of its annotation. The text says what was expected."""


def schema_of(annotation: Any) -> dict[str, Any]:
    """The JSON Schema of an annotation.

    In `Annotated[int, "how many", {"minimum": 1}]` a text is the description, and an object is added to the schema.
    """
    if annotation in (Any, object, dataclasses.MISSING):
        return {}
    if isinstance(annotation, type) and annotation in _SIMPLE:
        return dict(_SIMPLE[annotation])
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        schema = schema_of(arguments[0])
        for extra in arguments[1:]:
            schema |= {"description": extra} if isinstance(extra, str) else extra if isinstance(extra, dict) else {}
        return schema
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(each) for each in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (list, tuple, set, frozenset):
        return {"type": "array", "items": schema_of(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1])}
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return {"enum": [each.value for each in annotation]}
    if dataclasses.is_dataclass(annotation):
        return _object_schema(annotation)
    if typing.is_typeddict(annotation):
        properties = hints_of(annotation)
        required = [name for name in properties if name in annotation.__required_keys__]
        return {
            "type": "object",
            "properties": {name: schema_of(each) for name, each in properties.items()},
            "required": required,
        }
    raise TypeError(f"{annotation!r} has no JSON Schema; use str, int, float, bool, date, list, dict, Literal, an Enum, a dataclass or a TypedDict")


def _object_schema(cls: type) -> dict[str, Any]:
    hints = hints_of(cls)
    properties, required = {}, []
    for field in dataclasses.fields(cls):
        properties[field.name] = schema_of(hints[field.name])
        if is_required(field):
            required.append(field.name)
        elif field.default is not dataclasses.MISSING and _is_json(field.default):
            properties[field.name]["default"] = field.default
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": required}


def hints_of(thing: Any) -> dict[str, Any]:
    """The annotations of a class or function, evaluated."""
    return typing.get_type_hints(thing, include_extras=True)


def is_required(field: dataclasses.Field) -> bool:
    """Whether a dataclass field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _is_json(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def bare(annotation: Any) -> Any:
    """Without `Annotated`, and without the `None` of an optional."""
    if get_origin(annotation) is Annotated:
        return bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [each for each in get_args(annotation) if each is not type(None)]
        return bare(rest[0]) if len(rest) == 1 else annotation
    return annotation


def repeats(annotation: Any) -> bool:
    """Whether a parameter takes every value of its name, as a list."""
    return bare(annotation) is list or get_origin(bare(annotation)) is list


def reader(annotation: Any) -> Callable[[str], Any]:
    """What makes the value that a part's text stands for; it raises `Unfit`."""
    wanted = bare(annotation)
    if get_origin(wanted) is Literal:
        return _one_of({str(each): each for each in get_args(wanted)})
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return _one_of({str(each.value): each for each in wanted})
    if wanted is bool:
        return _one_of({"true": True, "false": False})
    if wanted in (int, float):
        return _converted(wanted, wanted)
    if wanted in (datetime.date, datetime.datetime):
        return _converted(wanted, wanted.fromisoformat)
    return str


def _one_of(values: dict[str, Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if text not in values:
            raise Unfit(f"is none of {', '.join(values)}")
        return values[text]

    return read


def _converted(wanted: type, convert: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return convert(text)
        except ValueError:
            raise Unfit(f"is not of the type {wanted.__name__}") from None

    return read


def from_json(annotation: Any, value: Any) -> Any:
    """The value that JSON stands for: dataclasses are made, all else is taken as it is (the host has checked it)."""
    wanted = bare(annotation)
    if dataclasses.is_dataclass(wanted) and isinstance(value, dict):
        hints = hints_of(wanted)
        return wanted(**{name: from_json(hints[name], each) for name, each in value.items() if name in hints})
    if get_origin(wanted) is list and isinstance(value, list):
        return [from_json(get_args(wanted)[0], each) for each in value]
    if get_origin(wanted) is dict and isinstance(value, dict):
        return {name: from_json(get_args(wanted)[1], each) for name, each in value.items()}
    if isinstance(value, str) and wanted in (datetime.date, datetime.datetime):
        return wanted.fromisoformat(value)
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return wanted(value)
    return value
