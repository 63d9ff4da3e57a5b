"""What Uvicorn serves: the app that APP names, with `/live`, `/ready` and `/health` in front of it.

They stand outside the app, so that every ASGI app has them. Traefik probes `/ready`; it routes neither that nor `/live`
from outside.
"""

import asyncio
import os
import socket
import sys
import traceback

from psycopg.errors import UndefinedTable
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.importer import import_from_string

from app import database, settings, supervisor
from app.body import BodyLimit
from app.supervisor import STARTUP_FAILURE

# Seconds that the database has to answer `/health`.
DATABASE_TIMEOUT = 1


async def live() -> Response:
    """200 while the event loop turns."""
    return JSONResponse({"live": True})


async def ready() -> Response:
    """200 unless the slot drains or is incomplete. Never asks the database: an outage must not end every route."""
    is_ready = supervisor.ready()
    return JSONResponse({"ready": is_ready}, status_code=200 if is_ready else 503)


async def health() -> Response:
    """200 when the database answers within DATABASE_TIMEOUT and its schema is at the head of this code's migrations.

    The answer also says who gives it: the release, and the slot by the container's host name.
    """
    who = {"release": settings.load().release, "slot": socket.gethostname()}
    # From `app.serve`.
    head = os.environ["SCHEMA_HEAD"].split()
    try:
        async with asyncio.timeout(DATABASE_TIMEOUT):
            current = await schema_revisions()
    except Exception as error:
        if not isinstance(error, TimeoutError) and not database.is_away(error):
            raise
        return JSONResponse({"database": "away", "head": head, **who}, status_code=503)
    at_head = current == head
    body = {"database": "ok", "at_head": at_head, "schema": current, "head": head, **who}
    return JSONResponse(body, status_code=200 if at_head else 503)


async def schema_revisions() -> list[str]:
    """The revisions that the database's schema is at; none when no migration has run."""
    async with database.read_engine().connect() as connection:
        try:
            return sorted(await connection.scalars(text("SELECT version_num FROM alembic_version")))
        except ProgrammingError as error:
            if isinstance(error.orig, UndefinedTable):
                return []
            raise


ROUTES = {"/live": live, "/ready": ready, "/health": health}


class Health:
    """Answers ROUTES itself, leaves all else to the app, and closes the database's pools after the app's shutdown."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in ROUTES and scope["method"] in ("GET", "HEAD"):
            response = await ROUTES[scope["path"]]()
            await response(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self.app(scope, receive, self.closing(send))
        else:
            await self.app(scope, receive, send)

    def closing(self, send: Send) -> Send:
        async def send_and_close(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await database.dispose()
            await send(message)

        return send_and_close


def application() -> ASGIApp:
    """The app that APP names, with the routes above. One that can't be imported ends the slot.

    Trying again at once, for ever, would help nobody; Docker's restart policy waits longer each time.
    """
    try:
        app: ASGIApp = import_from_string(settings.load().app)
    except Exception:
        traceback.print_exc()
        sys.exit(STARTUP_FAILURE)
    return Health(BodyLimit(app, settings.load().body_limit))
