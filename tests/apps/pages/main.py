import os
import secrets
from pathlib import Path

from fastapi import FastAPI, Request, Response, UploadFile
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

HERE = Path(__file__).parent
UPLOADS = Path(os.environ["UPLOADS"])
UPLOADS.mkdir(parents=True, exist_ok=True)

app = FastAPI(docs_url=None, redoc_url=None)
app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
templates = Jinja2Templates(directory=HERE / "templates")
things: list[dict[str, str]] = []


@app.get("/", response_class=HTMLResponse)
def root(request: Request) -> Response:
    nonce = secrets.token_urlsafe()
    page = templates.TemplateResponse(request, "things.html", {"things": things, "nonce": nonce})
    page.headers["Content-Security-Policy"] = f"default-src 'self'; script-src 'nonce-{nonce}'"
    page.headers["X-Frame-Options"] = "SAMEORIGIN"
    return page


@app.get("/things")
def list_things() -> list[dict[str, str]]:
    return things


@app.post("/things", status_code=201)
def make_thing(thing: dict[str, str]) -> dict[str, str]:
    things.append(thing)
    return thing


@app.post("/pictures", status_code=201)
async def upload(picture: UploadFile) -> dict[str, str | int]:
    place = UPLOADS / secrets.token_hex()
    place.write_bytes(await picture.read())
    return {"name": str(picture.filename), "size": place.stat().st_size}
