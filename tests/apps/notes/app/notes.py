from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy import BigInteger, CheckConstraint, DateTime, Identity, Text, func, select
from sqlalchemy.orm import Mapped, mapped_column

from .database import Base, SessionDep


class Note(Base):
    __tablename__ = "notes"
    __table_args__ = (CheckConstraint("char_length(text) BETWEEN 1 AND 10000", name="text_length"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class NoteIn(BaseModel):
    # Postgres can't store NUL in text.
    text: Annotated[str, Field(min_length=1, max_length=10_000, pattern=r"^[^\x00]*$")]


class NoteOut(NoteIn, from_attributes=True):
    id: int
    created_at: datetime


# Postgres's bigint.
Id = Annotated[int, Path(ge=1, le=2**63 - 1)]

MISSING: dict[int | str, dict[str, str]] = {404: {"description": "There is no such note."}}
BODY: dict[int | str, dict[str, str]] = {400: {"description": "The body can't be read."}}

router = APIRouter(prefix="/notes", tags=["notes"])


@router.get("")
async def list_notes(
    session: SessionDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[int, Query(ge=1, le=2**63 - 1, description="The last id of the page before.")] = 2**63 - 1,
) -> list[NoteOut]:
    """Newest first."""
    notes = await session.scalars(select(Note).where(Note.id < after).order_by(Note.id.desc()).limit(limit))
    return [NoteOut.model_validate(note) for note in notes]


@router.get("/{note_id}", responses=MISSING)
async def read_note(note_id: Id, session: SessionDep) -> NoteOut:
    return NoteOut.model_validate(await find(note_id, session))


@router.post("", status_code=201, responses=BODY)
async def create_note(note_in: NoteIn, session: SessionDep, request: Request, response: Response) -> NoteOut:
    note = Note(text=note_in.text)
    session.add(note)
    await session.commit()
    response.headers["Location"] = str(request.url_for("read_note", note_id=note.id))
    return NoteOut.model_validate(note)


@router.put("/{note_id}", responses=MISSING | BODY)
async def replace_note(note_id: Id, note_in: NoteIn, session: SessionDep) -> NoteOut:
    note = await find(note_id, session)
    note.text = note_in.text
    await session.commit()
    return NoteOut.model_validate(note)


@router.delete("/{note_id}", status_code=204, responses=MISSING)
async def delete_note(note_id: Id, session: SessionDep) -> None:
    await session.delete(await find(note_id, session))
    await session.commit()


async def find(note_id: int, session: SessionDep) -> Note:
    note = await session.get(Note, note_id)
    if not note:
        raise HTTPException(404, "There is no such note.")
    return note
