"""A loader: where the data of a route comes from. Larder calls it for what it does not hold, and caches the answer."""

from dataclasses import dataclass
from typing import Annotated, TypedDict

from larder_plugin import Context, loader


@dataclass
class Settings:
    """What the operator may write under [config] in {{name}}.toml."""

    greeting: Annotated[str, "the word before the name"] = "Hello"


class Greeting(TypedDict):
    message: str


# The arguments are the parts it understands. Larder checks requests by their types, and answers 422 to what does not fit.
@loader(name="{{name}}", version="0.1.0", settings=Settings)
async def load(key: Annotated[str, "who is greeted"], ctx: Context) -> Greeting:
    """Greets whoever is named by the key."""
    return {"message": f"{ctx.settings.greeting}, {key}"}
