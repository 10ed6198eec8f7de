"""FastAPI with cashews in memory: the decorator a Python user would put on the slow function."""

import asyncio
import os

from cashews import cache
from fastapi import FastAPI

TEXT = os.environ.get("TEXT", "Data for key {key}")
LATENCY_SECONDS = int(os.environ.get("LATENCY_MS", "150")) / 1000
TTL_SECONDS = int(os.environ.get("TTL_SECONDS", "60"))

app = FastAPI()
# Room for what the benchmark asks for, and looked through for what has expired once a minute.
cache.setup("mem://", size=100_000, check_interval=60)


@cache(ttl=TTL_SECONDS, key="data:{key}")
async def load(key: str) -> str:
    """The slow source."""
    if LATENCY_SECONDS:
        await asyncio.sleep(LATENCY_SECONDS)
    return TEXT.replace("{key}", key)


@app.get("/data/{key}")
async def get_data(key: str) -> dict[str, str]:
    return {"data": await load(key)}
