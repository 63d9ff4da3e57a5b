"""An app as others write theirs: it knows nothing of the stack, and uses Postgres in several ways."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from fastapi import APIRouter, FastAPI
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

URL = os.environ["DATABASE_URL"]
pool = create_async_engine(URL, pool_size=1, max_overflow=0, pool_timeout=0.3)
threads = create_engine(URL, pool_pre_ping=True)
COUNT = "SELECT count(*) FROM orders"
ORDER = "INSERT INTO orders DEFAULT VALUES"


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    yield
    await pool.dispose()
    threads.dispose()


reads = APIRouter()


@reads.get("/driver")
async def driver() -> int:
    async with await psycopg.AsyncConnection.connect(URL) as connection:
        row = await (await connection.execute(COUNT)).fetchone()
    assert row
    return int(row[0])


@reads.get("/async")
async def asynchronous() -> int:
    async with pool.connect() as connection:
        return int(await connection.scalar(text(COUNT)) or 0)


@reads.get("/threads")
def in_a_thread() -> int:
    with threads.connect() as connection:
        return int(connection.scalar(text(COUNT)) or 0)


@reads.get("/pool")
async def more_than_the_pool() -> int:
    async with pool.connect():
        return await asynchronous()


app = FastAPI(lifespan=lifespan)
app.include_router(reads)
mounted = FastAPI()
mounted.include_router(reads)
app.mount("/mounted", mounted)


@app.post("/orders", status_code=201)
async def order() -> None:
    async with pool.begin() as connection:
        await connection.execute(text(ORDER))


@app.get("/bug")
async def bug() -> None:
    async with pool.connect() as connection:
        await connection.execute(text("SELECT no_such_column FROM orders"))


@app.get("/")
async def nothing() -> str:
    return "here"
