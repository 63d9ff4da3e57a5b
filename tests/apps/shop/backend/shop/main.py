from fastapi import FastAPI
from sqlmodel import Session, select

from shop.database import Thing, engine

app = FastAPI()


@app.get("/")
def root() -> dict[str, str]:
    return {"app": "shop"}


@app.get("/things")
def list_things() -> list[Thing]:
    with Session(engine) as session:
        return list(session.exec(select(Thing)))


@app.post("/things", status_code=201)
def make_thing(thing: Thing) -> Thing:
    with Session(engine) as session:
        session.add(thing)
        session.commit()
        session.refresh(thing)
        return thing
