"""What a key policy is shown. Knows nothing of where it comes from."""

import dataclasses


class Pairs(list[tuple[str, str]]):
    """Name/value pairs in request order; a name may repeat."""

    def first(self, name: str) -> str | None:
        """The first value of a name."""
        return next((value for each, value in self if each == name), None)

    def all(self, name: str) -> list[str]:
        """Every value of a name."""
        return [value for each, value in self if each == name]


# Each derivation is handed one: see `outcomes` on why it is not frozen.
@dataclasses.dataclass(slots=True)
class Request:
    """A request, as far as its route lets it through: `headers` are those of the route's `key_headers`."""

    method: str = "GET"
    route: str = "/{key}"
    path: Pairs = dataclasses.field(default_factory=Pairs)
    query: Pairs = dataclasses.field(default_factory=Pairs)
    headers: Pairs = dataclasses.field(default_factory=Pairs)
