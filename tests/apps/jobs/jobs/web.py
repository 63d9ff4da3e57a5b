import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from arq import create_pool
from arq.connections import RedisSettings
from fastapi import FastAPI, Request
from pydantic import BaseModel


class Thing(BaseModel):
    name: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1, max_size=5) as pool:
        app.state.pool = pool
        app.state.queue = await create_pool(RedisSettings.from_dsn(os.environ["REDIS_URL"]))
        yield
        await app.state.queue.aclose()


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def root() -> dict[str, str]:
    return {"app": "jobs"}


@app.get("/things")
async def list_things(request: Request) -> list[dict[str, int | str]]:
    found = await request.app.state.pool.fetch("SELECT id, name FROM things ORDER BY id DESC LIMIT 20")
    return [dict(row) for row in found]


@app.post("/things", status_code=201)
async def make_thing(thing: Thing, request: Request) -> dict[str, int | str]:
    """A worker does the rest."""
    made = await request.app.state.pool.fetchrow("INSERT INTO things (name) VALUES ($1) RETURNING id, name", thing.name)
    await request.app.state.queue.enqueue_job("work", made["id"])
    return dict(made)
