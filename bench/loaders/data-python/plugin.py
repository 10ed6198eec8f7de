"""The source that the peers of the benchmark call in their own process, as a loader in Python: a text about the key.

Owns that text; must not know who asks, nor that it is measured.
"""

from dataclasses import dataclass
from typing import Annotated

from larder_plugin import Context, loader


@dataclass
class Settings:
    text: Annotated[str, "the answer; {key} stands for the key"] = "Data for key {key}"


@loader(name="data-python", settings=Settings)
async def load(key: str, ctx: Context):
    return {"data": ctx.settings.text.replace("{key}", key)}
