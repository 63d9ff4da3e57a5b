"""The three database routes over psycopg's own pool: what SQLAlchemy's statements and pool are measured against."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated

from fastapi import FastAPI, HTTPException
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel, Field

pool = AsyncConnectionPool(
    "host=/var/run/postgresql dbname=app user=app",
    min_size=5,
    max_size=5,
    open=False,
    kwargs={"autocommit": True, "row_factory": dict_row},
)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with pool:
        yield


app = FastAPI(lifespan=lifespan)


class NoteIn(BaseModel):
    text: Annotated[str, Field(min_length=1, max_length=10_000)]


class Note(BaseModel):
    id: int
    text: str
    created_at: datetime


@app.get("/")
async def read_root() -> dict[str, str]:
    return {"Hello": "World"}


@app.get("/notes")
async def list_notes(limit: int = 20) -> list[Note]:
    async with pool.connection() as connection:
        rows = await connection.execute("SELECT * FROM notes ORDER BY id DESC LIMIT %s", (limit,))
        return [Note.model_validate(row) for row in await rows.fetchall()]


@app.get("/notes/{note_id}")
async def read_note(note_id: int) -> Note:
    async with pool.connection() as connection:
        row = await (await connection.execute("SELECT * FROM notes WHERE id = %s", (note_id,))).fetchone()
    if row is None:
        raise HTTPException(404)
    return Note.model_validate(row)


@app.post("/notes", status_code=201)
async def create_note(note: NoteIn) -> Note:
    async with pool.connection() as connection:
        made = await connection.execute("INSERT INTO notes (text) VALUES (%s) RETURNING *", (note.text,))
        return Note.model_validate(await made.fetchone())
