from sqlmodel import Session, select

from shop.database import Thing, engine

with Session(engine) as session:
    if not session.exec(select(Thing)).first():
        session.add(Thing(name="the first thing"))
        session.commit()
