"""Notes: a table, its schema and its routes, there to be replaced. `migrations/` holds the revision that makes it."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Row,
    Table,
    Text,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)

from app.database import metadata, writing
from app.errors import documented
from app.reads import Read

LONGEST = 10_000

notes = Table(
    "notes",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column(
        "text", Text, CheckConstraint(f"char_length(text) BETWEEN 1 AND {LONGEST}", name="text_length"), nullable=False
    ),
    Column("created_at", DateTime(timezone=True), server_default=func.now(), nullable=False),
)


class NoteIn(BaseModel):
    # Postgres can't store NUL in text.
    text: Annotated[str, Field(min_length=1, max_length=LONGEST, pattern=r"^[^\x00]*$")]


class Note(BaseModel):
    id: int
    text: str
    created_at: datetime


# Postgres's bigint.
Id = Annotated[int, Path(ge=1, le=2**63 - 1)]

AWAY = documented(status_503="The database can't be reached: ask again after Retry-After.")
MISSING = documented(status_404="There is no such note.")
BODY = documented(status_400="The body can't be read.", status_413="The body is too large.")

# Once, and not in each request, where making a statement costs as much as sending it.
CREATE = insert(notes).returning(notes)
NEWEST = select(notes).order_by(notes.c.id.desc()).limit(bindparam("limit"))
LIST = Read(NEWEST)
LIST_AFTER = Read(NEWEST.where(notes.c.id < bindparam("after")))
READ = Read(select(notes).where(notes.c.id == bindparam("note_id")))
# What is set are the columns among the parameters.
REPLACE = update(notes).where(notes.c.id == bindparam("note_id")).returning(notes)
DELETE = delete(notes).where(notes.c.id == bindparam("note_id"))

router = APIRouter(prefix="/notes", tags=["notes"], responses=AWAY)


@router.get("")
async def list_notes(
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="The last id of the page before.")] = None,
) -> list[Note]:
    """Newest first. A page is found by the key it starts after, so the thousandth costs what the first does."""
    rows = await (LIST.all(limit=limit) if after is None else LIST_AFTER.all(limit=limit, after=after))
    return [as_note(row) for row in rows]


@router.get("/{note_id}", responses=MISSING)
async def read_note(note_id: Id) -> Note:
    return found(await READ.one_or_none(note_id=note_id))


@router.post("", status_code=201, responses=BODY)
async def create_note(note: NoteIn, request: Request, response: Response) -> Note:
    async with writing() as connection:
        row = (await connection.execute(CREATE, {"text": note.text})).one()
    response.headers["Location"] = str(request.url_for("read_note", note_id=row.id))
    return as_note(row)


@router.put("/{note_id}", responses=MISSING | BODY)
async def replace_note(note_id: Id, note: NoteIn) -> Note:
    async with writing() as connection:
        row = (await connection.execute(REPLACE, {"note_id": note_id, "text": note.text})).one_or_none()
    return found(row)


@router.delete("/{note_id}", status_code=204, responses=MISSING)
async def delete_note(note_id: Id) -> None:
    async with writing() as connection:
        gone = await connection.execute(DELETE, {"note_id": note_id})
    if not gone.rowcount:
        raise missing()


def missing() -> HTTPException:
    return HTTPException(404, "There is no such note.")


def found(row: Row[Any] | None) -> Note:
    """The row as a note; 404 when there is none."""
    if row is None:
        raise missing()
    return as_note(row)


def as_note(row: Row[Any]) -> Note:
    return Note.model_validate(row, from_attributes=True)
