from pathlib import Path

from fastapi import FastAPI, WebSocket

app = FastAPI(docs_url="/api/docs")
things: list[dict[str, str]] = []
release = Path("release.txt")


@app.get("/api/things")
def list_things() -> list[dict[str, str]]:
    return things


@app.get("/api/release")
def show_release() -> dict[str, str]:
    return {"release": release.read_text().strip() if release.exists() else "none"}


@app.websocket("/api/echo")
async def echo(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(await socket.receive_text())


@app.get("/pages/here")
def page() -> dict[str, str]:
    """What only somebody asks for whose static files have a path of their own."""
    return {"page": "here"}
