import os

from sqlmodel import Field, SQLModel, create_engine

engine = create_engine(os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://"))


class Thing(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str
