"""The decorators, and what they make of a function: a `Plugin`, which describes itself and can be asked."""

import dataclasses
import inspect
import json
from collections.abc import Callable
from typing import Any, get_args, get_origin, Annotated

from . import schema
from .context import Context, Host
from .failures import InvalidRequest
from .outcomes import Decision, Outcome, Validator, decision_of, outcome_of
from .requests import Request


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a load."""

    name: str
    annotation: Any
    default: Any
    #: Makes a value of one part's text, and whether every part of the name is taken: looked up once, for a load is short.
    read: Callable[[str], Any]
    repeats: bool

    @classmethod
    def of(cls, name: str, annotation: Any, default: Any) -> "Parameter":
        """A parameter of this annotation."""
        repeats = schema.repeats(annotation)
        each = (get_args(schema.bare(annotation)) or (str,))[0] if repeats else annotation
        return cls(name, annotation, default, schema.reader(each), repeats)

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is inspect.Parameter.empty

    def describe(self) -> dict[str, Any]:
        """Its entry in the descriptor."""
        described = schema.schema_of(_not_none(self.annotation))
        entry = {"name": self.name, "in": "any", "required": self.required, "description": described.pop("description", None)}
        if not self.required and isinstance(self.default, str | int | float | bool):
            described["default"] = self.default
        return entry | {"schema": described}

    def value(self, text: str | None, parts: list[tuple[str, str]]) -> Any:
        """Its value, from the text of the first part of its name, or from all such parts."""
        if text is None:
            if self.required:
                raise InvalidRequest("parameter-missing", f"the parameter `{self.name}` is needed")
            return self.default
        try:
            return [self.read(each) for name, each in parts if name == self.name] if self.repeats else self.read(text)
        except schema.Unfit as unfit:
            raise InvalidRequest("parameter-invalid", f"the parameter `{self.name}` {unfit}") from None


@dataclasses.dataclass(frozen=True)
class Plugin:
    """What a decorator makes of a function."""

    kind: str
    function: Callable[..., Any]
    name: str
    version: str
    cache_version: int
    description: str | None
    settings: type | None
    response: Any
    grants: dict[str, Any]
    start: Callable[[Context], Any] | None = None
    probe: Callable[[Context], Any] | None = None
    parameters: tuple[Parameter, ...] = ()
    #: The dataclass that the parameters are handed over in, else they are arguments.
    gathered: type | None = None
    takes_context: bool = False
    #: Whether what the function gives is to be awaited; if not known so, each value is asked.
    is_async: bool = False
    #: The settings by their text: they are those of an instance, and a load is short.
    made: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def descriptor(self) -> str:
        """The JSON text of `metadata.describe`."""
        told: dict[str, Any] = {"description": self.description, "grants": self.grants}
        told["settings"] = schema.schema_of(self.settings or _NoSettings)
        if self.kind == "loader":
            told["parameters"] = [parameter.describe() for parameter in self.parameters]
            if self.response is not None:
                response = self.response if isinstance(self.response, dict) else schema.schema_of(self.response)
                told["response"] = {"content_type": "application/json", "schema": response}
        return json.dumps(told)

    def context(
        self,
        host: Host,
        route: str = "",
        deadline_ms: int = 0,
        known: Validator | None = None,
        traceparent: str | None = None,
        parts: list[tuple[str, str]] | None = None,
    ) -> Context:
        """The context of one call."""
        text = host.settings()
        if text not in self.made:
            given = json.loads(text or "{}")
            self.made[text] = schema.from_json(self.settings, given) if self.settings else given
        return Context(self.made[text], route, deadline_ms, known, traceparent, parts or [], host)

    async def load(
        self,
        parts: list[tuple[str, str]],
        host: Host,
        route: str = "",
        deadline_ms: int = 0,
        known: Validator | None = None,
        traceparent: str | None = None,
    ) -> Outcome:
        """One load. Raises whatever the function raises."""
        texts: dict[str, str] = {}
        for name, text in parts:
            texts.setdefault(name, text)
        values = {each.name: each.value(texts.get(each.name), parts) for each in self.parameters}
        arguments: list[Any] = []
        if self.gathered:
            arguments, values = [self.gathered(**values)], {}
        if self.takes_context:
            values["ctx"] = self.context(host, route, deadline_ms, known, traceparent, parts)
        value = self.function(*arguments, **values)
        if self.is_async or inspect.isawaitable(value):
            value = await value
        return outcome_of(value)

    def derive(self, request: Request, host: Host) -> Decision:
        """One derivation. Raises whatever the function raises."""
        arguments = {"ctx": self.context(host)} if self.takes_context else {}
        return decision_of(self.function(request, **arguments))


@dataclasses.dataclass(frozen=True)
class _NoSettings:
    pass


#: The plugin of the program: one component is one plugin.
declared: list[Plugin] = []


def loader(
    *,
    name: str,
    version: str = "0.1.0",
    cache_version: int = 1,
    description: str | None = None,
    settings: type | None = None,
    response: Any = None,
    grants: dict[str, Any] | None = None,
    start: Callable[[Context], Any] | None = None,
    probe: Callable[[Context], Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declares an async loader.

    The function's parameters are the parts it understands, typed by their annotations; a first one that is annotated with
    a dataclass gets them all in one; one called `ctx` gets the `Context`. What it returns is sent as JSON; `None` means
    that there is no such thing; `found`, `missing` and `not_modified` say more.

    `settings` is a dataclass for the sidecar's `[config]`, `response` the type of the value (the return annotation, if
    left out), `grants` what the plugin needs, in sentences. Raise `cache_version` when stored entries changed shape.
    `start` and `probe` are called with a `Context`, once and again and again; a failure refuses the plugin.
    """

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        hints = schema.hints_of(function)
        arguments = dict(inspect.signature(function).parameters)
        takes_context = arguments.pop("ctx", None) is not None
        gathered, parameters = None, []
        for argument in arguments.values():
            annotation = hints.get(argument.name, str)
            if dataclasses.is_dataclass(annotation) and len(arguments) == 1:
                gathered = annotation
                parameters = _fields(annotation)
            else:
                parameters.append(Parameter.of(argument.name, annotation, argument.default))
        plugin = Plugin(
            kind="loader",
            function=function,
            name=name,
            version=version,
            cache_version=cache_version,
            description=description or inspect.getdoc(function),
            settings=settings,
            response=response if response is not None else _value_type(hints.get("return")),
            grants=grants or {},
            start=start,
            probe=probe,
            parameters=tuple(parameters),
            gathered=gathered,
            takes_context=takes_context,
            is_async=inspect.iscoroutinefunction(function),
        )
        plugin.descriptor()  # An annotation without a schema is told where it stands, at import.
        return _declared(plugin)

    return declare


def key_policy(
    *,
    name: str,
    version: str = "0.1.0",
    description: str | None = None,
    settings: type | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declares a key policy: `def derive(request: Request, ctx: Context)`.

    It returns the parts (a dict or pairs), or what `cache` and `bypass` give; a `Failure` rejects the request. It is
    pure: the clock stands still, and `ctx` has settings and log alone.
    """

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(function):
            raise TypeError("a key policy is synchronous; declare it with `def`")
        plugin = Plugin(
            kind="key-policy",
            function=function,
            name=name,
            version=version,
            cache_version=1,
            description=description or inspect.getdoc(function),
            settings=settings,
            response=None,
            grants={},
            takes_context="ctx" in inspect.signature(function).parameters,
        )
        return _declared(plugin)

    return declare


def plugin_of(function: Callable[..., Any]) -> Plugin:
    """What a decorator made of a function."""
    return function.__larder_plugin__


def _declared(plugin: Plugin) -> Callable[..., Any]:
    plugin.function.__larder_plugin__ = plugin
    declared.append(plugin)
    return plugin.function


def _fields(cls: type) -> list[Parameter]:
    hints = schema.hints_of(cls)
    parameters = []
    for field in dataclasses.fields(cls):
        default = inspect.Parameter.empty
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        parameters.append(Parameter.of(field.name, hints[field.name], default))
    return parameters


def _not_none(annotation: Any) -> Any:
    """A parameter is never null: it is there or it is not. What `Annotated` says stays."""
    if get_origin(annotation) is Annotated:
        inner, *extras = get_args(annotation)
        return Annotated[(_not_none(inner), *extras)]
    return schema.bare(annotation)


def _value_type(annotation: Any) -> Any:
    """The schema-giving part of a return annotation: what is not a type of values says nothing."""
    wanted = schema.bare(annotation)
    if wanted in (None, type(None), dict, Any, bytes) or isinstance(wanted, type) and issubclass(wanted, Outcome):
        return None
    try:
        schema.schema_of(wanted)
    except TypeError:
        return None
    return wanted
