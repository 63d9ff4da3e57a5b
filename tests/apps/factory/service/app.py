import time

from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from service.settings import settings


def create_app() -> FastAPI:
    # A model that takes long to load.
    time.sleep(settings.start_seconds)
    engine = create_async_engine(str(settings.database_url).replace("postgresql://", "postgresql+psycopg://"))
    app = FastAPI(title=settings.greeting)

    @app.get("/")
    async def root() -> dict[str, str]:
        return {"app": settings.greeting}

    @app.get("/things")
    async def list_things() -> list[dict[str, int]]:
        async with engine.connect() as connection:
            return [{"id": (await connection.execute(text("SELECT 1"))).scalar_one()}]

    @app.post("/things", status_code=201)
    async def make_thing() -> dict[str, int]:
        async with engine.connect() as connection:
            return {"id": (await connection.execute(text("SELECT 2"))).scalar_one()}

    return app
