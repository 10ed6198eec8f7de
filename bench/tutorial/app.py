"""The tutorial's read path: FastAPI, cache-aside over redis-py, "if Redis is down, go to the source".

Tuned the way its users would: the asyncio client with hiredis, uvicorn with uvloop and httptools.
"""

import asyncio
import os

import redis.asyncio as redis
from fastapi import FastAPI

TEXT = os.environ.get("TEXT", "Data for key {key}")
LATENCY_SECONDS = int(os.environ.get("LATENCY_MS", "150")) / 1000
TTL_SECONDS = int(os.environ.get("TTL_SECONDS", "60"))
PREFIX = "fastapi:"

app = FastAPI()
cache = redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/"), decode_responses=True)


async def load(key: str) -> str:
    """The slow source."""
    if LATENCY_SECONDS:
        await asyncio.sleep(LATENCY_SECONDS)
    return TEXT.replace("{key}", key)


@app.get("/data/{key}")
async def get_data(key: str) -> dict[str, str]:
    try:
        data = await cache.get(PREFIX + key)
    except redis.RedisError:
        return {"data": await load(key)}
    if data is None:
        data = await load(key)
        await cache.set(PREFIX + key, data, ex=TTL_SECONDS)
    return {"data": data}
