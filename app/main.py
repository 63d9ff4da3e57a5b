"""Your app. Two routes are those of FastAPI's own guide; `notes` is a stored resource, there to be replaced."""

from app import errors, notes
from app.docs import create_app

# FastAPI(title="FastAPI"), with the scripts of /docs and /redoc served from here instead of a third party's host.
app = create_app(title="FastAPI")
app.include_router(notes.router)
errors.install(app)


@app.get("/")
async def read_root() -> dict[str, str]:
    return {"Hello": "World"}


@app.get("/items/{item_id}")
async def read_item(item_id: int, q: str | None = None) -> dict[str, int | str | None]:
    return {"item_id": item_id, "q": q}
