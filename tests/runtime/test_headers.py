"""The security headers around an app: its own count, and what it leaves out has a default."""

import asyncio
import re
from typing import Any

import pytest
from fastapi import FastAPI

from runtime.headers import DEFAULTS, DOCS, GUIDE, POLICY, STRICT, Headers, documentation
from runtime.health import Message
from tests.conftest import REPO


def asked(headers: Headers, path: str = "/") -> list[tuple[bytes, bytes]]:
    """The headers of the answer."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    asyncio.run(headers({"type": "http", "path": path}, receive, send))
    found: list[tuple[bytes, bytes]] = sent[0]["headers"]
    return found


def answering(*own: tuple[bytes, bytes], policy: str | None = None, pages: frozenset[str] = frozenset()) -> Headers:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        # ASGI allows any iterable.
        await send({"type": "http.response.start", "status": 200, "headers": (one for one in own)})
        await send({"type": "http.response.body", "body": b""})

    return Headers(app, policy, pages)


def test_defaults() -> None:
    """An app that says nothing has all of them, and may load nothing."""
    assert dict(asked(answering())) == {**DEFAULTS, POLICY: STRICT.encode()}


@pytest.mark.parametrize("name", [*DEFAULTS, POLICY])
def test_the_apps_own_wins(name: bytes) -> None:
    """However it writes the name, its value is the only one."""
    found = asked(answering((name.title(), b"mine")))
    assert [value for key, value in found if key.lower() == name] == [b"mine"]
    assert len(found) == len(DEFAULTS) + 1


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_what_nobody_vouches_for(kind: str) -> None:
    """Where the proxy says that a request is from outside, no header passes that looks like a gateway's."""
    seen: list[bytes] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.extend(name for name, _ in scope["headers"])

    rules = (REPO / "traefik/dynamic/headers.yaml").read_text()
    listed = [name.lower().encode() for line in re.findall(r'^  "(.+)"', rules, re.MULTILINE) for name in line.split()]
    assert len(listed) > 70
    forged = [*listed, b"x-forwarded-roles", b"remote-invented", b"x_real_ip", b"x.real.ip"]
    # Of an app's own, and what the proxy itself says.
    own = b"accept authorization cookie origin x-api-key x-auth-token x-client-version x-csrf-token x-host-name".split()
    own += b"x-goog-channel-id x-original-name x-forwarded-for x-forwarded-host x-real-ip x-request-id".split()
    names = [*own, *forged]
    for mark, passed in (([], names), ([b"x-from-outside"], own)):
        seen.clear()
        scope = {"type": kind, "path": "/", "headers": [(name, b"x") for name in [*mark, *names]]}
        neither: Any = None
        asyncio.run(Headers(app, None)(scope, neither, neither))
        assert seen == passed


def test_policy_of_a_setting() -> None:
    """CONTENT_SECURITY_POLICY is the default then, but not for FastAPI's own pages."""
    headers = answering(policy="default-src 'self'")
    assert dict(asked(headers))[POLICY] == b"default-src 'self'"
    assert dict(asked(headers, "/docs"))[POLICY] == GUIDE.encode()


def test_fastapis_own_pages_are_found() -> None:
    """Wherever the app has them, or has none; those of an app that is mounted in it, too, and no other's."""
    app, inner = FastAPI(docs_url="/api/docs", redoc_url=None), FastAPI(swagger_ui_oauth2_redirect_url=None)
    app.mount("/v1", inner)
    app.mount("/static", answering())
    assert set(documentation(app)) == {"/api/docs", "/docs/oauth2-redirect", "/v1/docs", "/v1/redoc"}
    assert set(documentation(answering())) == set()


def test_pages_below_a_root_path() -> None:
    """They are asked for with it or without, as the proxy has it."""
    app = FastAPI(redoc_url=None, swagger_ui_oauth2_redirect_url=None)
    # As FastAPI(root_path=…) has it, which newer ones warn of.
    app.root_path = "/api"
    assert set(documentation(app)) == {"/docs", "/api/docs"}


def test_documentation_page_of_the_apps_own(capsys: pytest.CaptureFixture[str]) -> None:
    """It may have the guide's other CDN, is named in the log, and says more by a header; FastAPI's own is neither."""
    html = (b"content-type", b"text/html; charset=utf-8")
    found = dict(asked(answering(html), "/docs"))[POLICY].decode()
    assert "script-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net https://unpkg.com;" in found
    assert capsys.readouterr().err.startswith("/docs is a page of the app's own, and may load what FastAPI's guide has")
    assert dict(asked(answering(html, (POLICY, b"mine")), "/docs"))[POLICY] == b"mine"
    assert dict(asked(answering(html, pages=frozenset({"/docs"})), "/docs"))[POLICY] == DOCS.encode()
    assert not capsys.readouterr().err


def test_pictures_for_the_whole_site() -> None:
    """A page of app.example.com may show what api.example.com has; no other site may."""
    assert dict(asked(answering()))[b"cross-origin-resource-policy"] == b"same-site"


def test_policy_of_fastapis_own_pages() -> None:
    """They load their scripts, the app's other answers nothing."""
    headers = answering(pages=frozenset({"/v1/docs"}))
    assert dict(asked(headers, "/v1/docs"))[POLICY] == DOCS.encode()
    assert dict(asked(headers, "/v1/docs/more"))[POLICY] == STRICT.encode()


def test_html_under_the_default_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A page that may load nothing names the setting in the slot's log."""
    headers = answering((b"content-type", b"text/html; charset=utf-8"))
    for _ in range(2):
        asked(headers, "/shop")
    said = capsys.readouterr().err
    assert said.startswith("/shop is HTML, and may load nothing: CONTENT_SECURITY_POLICY in .env")
    assert said.count("\n") == 1
