"""Two releases of one app: NAME_COLUMN=name is the one before the rename in `changes`, full_name the one after it."""

import os
from typing import Any

from fastapi import FastAPI
from sqlalchemy import BigInteger, Column, Identity, MetaData, Table, Text, insert, select, update
from sqlalchemy.ext.asyncio import create_async_engine

engine = create_async_engine(os.environ["DATABASE_URL"])
people = Table(
    "people",
    MetaData(),
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column(os.environ["NAME_COLUMN"], Text, nullable=False, key="name"),
)
app = FastAPI()


@app.post("/people", status_code=201)
async def create(name: str) -> dict[str, Any]:
    made = insert(people).values(name=name).returning(people.c.id, people.c.name)
    async with engine.begin() as connection:
        row = (await connection.execute(made)).one()
    return {"id": row[0], "name": row[1]}


@app.get("/people/{person_id}")
async def read(person_id: int) -> dict[str, Any]:
    async with engine.connect() as connection:
        row = (await connection.execute(select(people).where(people.c.id == person_id))).one()
    return {"id": row[0], "name": row[1]}


@app.put("/people/{person_id}")
async def replace(person_id: int, name: str) -> dict[str, Any]:
    changed = update(people).where(people.c.id == person_id).values(name=name).returning(people.c.id, people.c.name)
    async with engine.begin() as connection:
        row = (await connection.execute(changed)).one()
    return {"id": row[0], "name": row[1]}
