"""This app's four routes as the popular templates write them: sync routes in threads, an ORM session each, TCP."""

import os
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, HTTPException
from sqlmodel import Field, Session, SQLModel, create_engine, select

engine = create_engine(os.environ["DATABASE_URL"])
app = FastAPI()
router = APIRouter(prefix="/notes", tags=["notes"])


class NoteIn(SQLModel):
    text: str = Field(min_length=1, max_length=10_000)


class Note(SQLModel, table=True):
    __tablename__ = "notes"
    id: int | None = Field(default=None, primary_key=True)
    text: str
    created_at: datetime | None = Field(default=None, sa_column_kwargs={"server_default": "now()"})


class NotePublic(SQLModel):
    id: int
    text: str
    created_at: datetime


def get_session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


SessionDep = Annotated[Session, Depends(get_session)]


@app.get("/")
def read_root() -> dict[str, str]:
    return {"Hello": "World"}


# Traefik's probe.
@app.get("/ready")
def ready() -> None:
    pass


@router.get("", response_model=list[NotePublic])
def list_notes(session: SessionDep, limit: int = 20) -> object:
    return session.exec(select(Note).order_by(Note.id.desc()).limit(limit)).all()


@router.get("/{note_id}", response_model=NotePublic)
def read_note(note_id: int, session: SessionDep) -> object:
    note = session.get(Note, note_id)
    if not note:
        raise HTTPException(404)
    return note


@router.post("", response_model=NotePublic, status_code=201)
def create_note(given: NoteIn, session: SessionDep) -> object:
    note = Note.model_validate(given)
    session.add(note)
    session.commit()
    session.refresh(note)
    return note


app.include_router(router)
