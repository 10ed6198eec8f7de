"""Weather stations: asks a station's HTTP service for its last reading, as an async loader.

The service answers `GET {origin}/{station}` with `{"name": "Oslo", "celsius": 21.5}` and an ETag.
"""

from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import quote

from larder_plugin import Context, Denied, Internal, RateLimited, Unavailable, found, loader, not_modified


@dataclass
class Settings:
    origin: Annotated[str, "where the stations answer, as http://stations.example.com", {"pattern": "^https?://[^/]+$"}]
    ttl_s: Annotated[float, "how long a reading is fresh, in seconds", {"minimum": 0}] = 60.0
    authenticated: Annotated[bool, "send the secret `token` with each request"] = False


@dataclass
class Reading:
    station: str
    temperature: float
    unit: str


@loader(
    name="stations",
    version="0.1.0",
    settings=Settings,
    response=Reading,
    grants={"http": ["the origin that the setting `origin` names"]},
)
async def load(
    key: Annotated[str, "the station", {"minLength": 1}],
    ctx: Context,
    unit: Annotated[Literal["celsius", "fahrenheit"], "of the temperature"] = "celsius",
    digits: Annotated[int, "of the temperature, after the point", {"minimum": 0, "maximum": 6}] = 1,
):
    """The last reading of a weather station."""
    settings = ctx.settings
    headers = {}
    if ctx.known and ctx.known.etag:
        headers["if-none-match"] = ctx.known.etag
    if settings.authenticated:
        headers["authorization"] = f"Bearer {ctx.secret('token')}"

    answer = await ctx.get(f"{settings.origin}/{quote(key, safe='')}", headers=headers)
    match answer.status:
        case 200:
            source = answer.json()
        case 304 if ctx.known:
            return not_modified(ttl=settings.ttl_s)
        case 404:
            return None
        case 401 | 403:
            raise Denied("station-denied", "the station wants other credentials")
        case 429:
            raise RateLimited("station-busy", "the station asks for fewer requests", retry_after=10)
        case status if status >= 500:
            raise Unavailable("station-down", f"the station answered with status {status}", details={"status": str(status)})
        case status:
            raise Internal("station-status", f"the station answered with status {status}")

    temperature = source["celsius"] if unit == "celsius" else source["celsius"] * 9 / 5 + 32
    ctx.log.debug("read", station=key)
    return found(
        Reading(source["name"], round(temperature, digits), unit),
        ttl=settings.ttl_s,
        tags=[f"station:{key}"],
        etag=answer.header("etag"),
    )
