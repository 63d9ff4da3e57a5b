"""Whom a slot believes when a request says where it comes from: FORWARDED_ALLOW_IPS, or Traefik alone.

Not Traefik's network, where other containers may be, and whose gateway is the host. Traefik may have another address
after a restart, so its name is looked up: in Docker's own DNS, which no other container can answer for.
"""

import asyncio
import socket
import time
from math import inf
from typing import Any

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from .health import ASGIApp, Receive, Scope, Send
from .readiness import plain
from .settings import Settings

# The service in compose.yaml.
NAME = "traefik"
# Seconds for which an address is taken for Traefik's: later it may be another container's.
KEPT = 5
# Seconds for a look, which takes a millisecond while Docker's DNS is well, and from one that found nobody to the next:
# where there is no Traefik each request would look.
PATIENCE = 1


def believing(app: ASGIApp, chosen: Settings) -> ASGIApp:
    """The app, told its clients' addresses as the settings have it."""
    # Uvicorn has names of its own for the same types.
    made: Any = app
    if chosen.forwarded_allow_ips:
        made = ProxyHeadersMiddleware(made, chosen.forwarded_allow_ips)
    else:
        made = FromTraefik(app, chosen.trusted_proxies)
    return Plain(made) if ":" in chosen.host else made


class Plain:
    """Gives an IPv4 address its own form, where the socket is for IPv6 too: no IPv4 network has the other in it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("client"):
            host, port = scope["client"]
            scope["client"] = (plain(host), port)
        await self.app(scope, receive, send)


class FromTraefik:
    """Hands a request of Traefik's on as its client's; `proxies`, with commas, are no clients. Others as they came."""

    def __init__(self, app: ASGIApp, proxies: str | None, name: str = NAME) -> None:
        self.app: Any = app
        self.proxies = [proxies] if proxies else []
        self.name = name
        self.addresses: set[str] = set()
        self.believing: Any = app
        self.asked = -inf
        self.looking: asyncio.Future[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] != "lifespan" and scope.get("client"):
            peer = scope["client"][0]
            since, known = time.monotonic() - self.asked, peer in self.addresses
            due = since > KEPT or (not known and (self.addresses or since > PATIENCE))
            if due and not self.looking:
                self.looking = asyncio.ensure_future(self.look())
            if self.looking and (due or not known):
                # One look for all who wait: the end of one of their requests does not end it.
                await asyncio.shield(self.looking)
            if peer in self.addresses:
                app = self.believing
        await app(scope, receive, send)

    async def look(self) -> None:
        """Ask where Traefik is. Without an answer it is where it was: an engine that restarts takes its DNS along."""
        self.asked = time.monotonic()
        looking = asyncio.get_running_loop().getaddrinfo(self.name, None, family=socket.AF_INET)
        try:
            found = {str(one[4][0]) for one in await asyncio.wait_for(looking, PATIENCE)}
        except (OSError, asyncio.TimeoutError):
            return
        finally:
            self.looking = None
        if found != self.addresses:
            self.addresses = found
            self.believing = ProxyHeadersMiddleware(self.app, ",".join([*found, *self.proxies]))
