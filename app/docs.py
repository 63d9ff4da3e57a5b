"""A FastAPI whose `/docs` and `/redoc` load nothing from another host, and hold no script themselves."""

import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_oauth2_redirect_html
from fastapi.responses import HTMLResponse
from starlette._utils import get_route_path
from starlette.datastructures import URLPath
from starlette.routing import BaseRoute, Match, NoMatchFound, Route, Router
from starlette.types import Receive, Scope, Send

SCRIPTS = Path(fastapi_offline.__file__).parent / "static"
# The one thing that Redoc's script would still fetch, its maker's logo, and an empty picture in its place.
LOGO = b"https://cdn.redoc.ly/redoc/logo-mini.svg"
EMPTY = b"data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>"
INLINE = re.compile(rb"<script>(.*?)</script>", re.DOTALL)

Page = Callable[[Request], Awaitable[HTMLResponse]]


async def redoc_script(_request: Request) -> Response:
    # Read each time: 1 MB that no worker needs to hold for a page that is rarely looked at.
    script = (SCRIPTS / "redoc.standalone.js").read_bytes()
    return Response(script.replace(LOGO, EMPTY), media_type="text/javascript")


def without_inline_script(page: Page, path: str) -> list[Route]:
    """The page at `path` with its script beside it: the Content-Security-Policy allows none inside a page."""

    async def html(request: Request) -> Response:
        body = (await page(request)).body
        root = str(request.scope.get("root_path", ""))
        return HTMLResponse(INLINE.sub(f'<script src="{root}{path}/script.js"></script>'.encode(), bytes(body)))

    async def script(request: Request) -> Response:
        found = INLINE.search(bytes((await page(request)).body))
        return Response(found[1] if found else b"", media_type="text/javascript")

    return [Route(path, html), Route(f"{path}/script.js", script)]


async def oauth2_redirect(_request: Request) -> HTMLResponse:
    return get_swagger_ui_oauth2_redirect_html()


class Pages(BaseRoute):
    """The routes of the documentation as one: any other request passes them in a step, not in ten.

    In front, as FastAPI has them, so that an app mounted at / leaves them alone.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self.router = Router(routes)
        self.names = {getattr(route, "name", None) for route in routes}
        self.folders = {str(getattr(route, "path", "")).split("/")[1] for route in routes}

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if get_route_path(scope).partition("/")[2].partition("/")[0] not in self.folders:
            return Match.NONE, {}
        found = [route.matches(scope)[0] for route in self.router.routes]
        # The router that has handle() called looks again.
        return max(found, key=lambda match: match.value), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.router(scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        if name not in self.names:
            raise NoMatchFound(name, path_params)
        return self.router.url_path_for(name, **path_params)


def create_app(**options: Any) -> FastAPI:
    """FastAPI with these options."""
    app = fastapi_offline.FastAPIOffline(**options)
    # Before the folder of scripts, which has this one too.
    routes: list[BaseRoute] = [Route("/static-offline-docs/redoc.standalone.js", redoc_script)]
    for route in list(app.router.routes):
        if isinstance(route, Route) and route.path == options.get("docs_url", "/docs"):
            routes += without_inline_script(route.endpoint, route.path)
            routes += without_inline_script(oauth2_redirect, str(app.swagger_ui_oauth2_redirect_url))
    given = options.get("routes") or []
    own = [route for route in app.router.routes if route not in given]
    app.router.routes[:] = [Pages([*routes, *own]), *given]
    return app
