import json
import os
import subprocess
import sys
import tempfile

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from runtime.body import HELD, PART, SHARE, SMALL, VALUE, BodyLimit
from runtime.health import Receive, Scope, Send
from tests.conftest import REPO
from tests.runtime.asgi import Answer, answering, ask, part, start

LIMIT = 100
LARGE = 1_000_000
# For 10 values of JSON.
MEMORY = 10 * VALUE * PART
ELEVEN = "[1,2,3,4,5,6,7,8,9,10,11]"
# In a process that has no Starlette.
BARE = """
import sys
from runtime.body import BodyLimit
from tests.runtime.asgi import ask, part, start
async def app(scope, receive, send):
    await receive()
    await send(start(200))
found = ask(BodyLimit(app, 100, 2**20), "POST", chunks=[b"x" * 101], headers=[("transfer-encoding", "chunked")])
print("starlette" in sys.modules, found.status, found.body.decode())
"""


async def reading(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that knows nothing of FastAPI's exceptions."""
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


def upload(
    limit: BodyLimit, chunks: list[bytes], length: str | None = None, kinds: tuple[str, ...] = (), client: str = "::1"
) -> Answer:
    headers = [("content-length", length)] if length else [("transfer-encoding", "chunked")] * bool(chunks)
    return ask(limit, "POST", "/", chunks, [*headers, *(("content-type", kind) for kind in kinds)], client)


@pytest.mark.parametrize(
    ("chunks", "length", "status"),
    [
        ([b"x" * 100], "100", 200),
        ([b"x" * 50, b"x" * 50], None, 200),
        ([], "101", 413),
        ([b"x" * 50, b"x" * 51], None, 413),
        ([b"x" * 101], "5", 413),
        ([], None, 200),
    ],
)
def test_limit(chunks: list[bytes], length: str | None, status: int) -> None:
    """One byte over is 413, by Content-Length before anything is read, and by count where there is none or a lie."""
    found = upload(BodyLimit(reading, LIMIT, MEMORY), chunks, length)
    assert found.status == status
    if status == 413:
        assert json.loads(found.body) == {"detail": "A request's body may have 100 bytes."}


@pytest.fixture
def busy() -> BodyLimit:
    """A worker whose requests, of many clients, hold all but ten bytes of what they may."""
    limit = BodyLimit(reading, LARGE, MEMORY)
    limit.held = HELD * LARGE - SMALL - 10
    return limit


def test_bodies_of_all_requests_together(busy: BodyLimit) -> None:
    """What a worker's requests hold together is bounded: one more is 503, and is forgotten when it ends."""
    before = busy.held
    assert upload(busy, [b"x" * (SMALL + 10)]).status == 200
    refused = upload(busy, [b"x" * (SMALL + 11)])
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert busy.held == before
    assert not busy.of


UPLOAD = ("multipart/form-data; boundary=x",)


def test_uploads_that_tmp_cannot_hold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of all workers are there, and what the app keeps: one that finds it full is 503, and a line in the log."""
    limit = BodyLimit(reading, LARGE, MEMORY)
    whole = os.statvfs(tempfile.gettempdir())
    monkeypatch.setattr(os, "statvfs", lambda _folder: whole)
    assert upload(limit, [b"x" * LARGE], kinds=UPLOAD).status == 200
    full = os.statvfs_result((1, 1, LARGE, LARGE, LARGE - 1, *tuple(whole)[5:10]))
    monkeypatch.setattr(os, "statvfs", lambda _folder: full)
    for _ in range(2):
        refused = upload(limit, [b"x" * (SMALL + 1)], kinds=UPLOAD)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    said = capsys.readouterr().err
    assert said == f"503, for {tempfile.gettempdir()} has no room for an upload.\n"
    # What is kept in memory.
    assert upload(limit, [b"x" * SMALL], kinds=UPLOAD).status == 200
    assert upload(limit, [b"x" * LARGE], kinds=("application/json",)).status == 200


def test_small_body_is_not_refused_for_what_others_hold(busy: BodyLimit) -> None:
    """Who sends a little is served however full it is."""
    busy.held = 10 * HELD * LARGE
    assert upload(busy, [b"x" * SMALL]).status == 200


@pytest.mark.parametrize(
    ("address", "status"), [("203.0.113.5", 503), ("203.0.113.6", 200), ("2001:db8::2", 503), ("2001:db8:0:1::2", 200)]
)
def test_one_client_has_its_share(address: str, status: int) -> None:
    """Who holds half of it gets 503; the others have the other half. With IPv6 a client is a /64."""
    limit = BodyLimit(reading, LARGE, MEMORY)
    for holder in ("203.0.113.5", "2001:db8::/64"):
        limit.of[holder] = int(SHARE * LARGE)
    assert upload(limit, [b"x" * (SMALL + 1)], client=address).status == status


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"[1,2,3,4,5,6,7,8,9]", "application/json", 200),
        (ELEVEN.encode(), "application/json", 413),
        (b"[{}]", "application/vnd.api+json; charset=utf-8", 200),
        (b"[{},{}]", "application/vnd.api+json; charset=utf-8", 413),
        (b"[[[[[[[[[[[1]]]]]]]]]]]", "application/json", 413),
        (b"1,2,3,4,5,6,7,8,9,10,11,12", "text/csv", 200),
        (b"a=1&" * 10, "application/x-www-form-urlencoded", 200),
        (b"a=1&" * 11, "Application/X-WWW-Form-UrlEncoded", 413),
        (b"a=1;" * 11, "application/x-www-form-urlencoded", 413),
        (b"a=1&" * 11, "text/plain", 200),
    ],
)
def test_values_of_json(body: bytes, kind: str, status: int) -> None:
    """JSON that would take more than its part of a worker's memory is refused while it arrives, and so is a form."""
    halves = [body[:5], body[5:]]
    found = upload(BodyLimit(reading, LIMIT, MEMORY), halves, kinds=(kind,))
    assert found.status == status
    if status == 413:
        said = "A request's JSON or form may have 10 values. An object counts as 8."
        assert json.loads(found.body) == {"detail": said}


@pytest.mark.parametrize(
    "kinds", [(), ("text/plain",), ("application/octet-stream",), ("application/json", "x"), ("x", "application/json")]
)
def test_json_whatever_it_is_called(kinds: tuple[str, ...]) -> None:
    """Apps read it with any Content-Type, and of two headers the first or the last."""
    assert upload(BodyLimit(reading, LIMIT, MEMORY), [ELEVEN.encode()], kinds=kinds).status == 413


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-16-le", "utf-32", "utf-32-be"])
def test_json_as_python_reads_it(encoding: str) -> None:
    """Behind blanks, and in whatever encoding."""
    body = f" \r\n\t{ELEVEN}".encode(encoding)
    assert json.loads(body) == list(range(1, 12))
    assert upload(BodyLimit(reading, 1000, MEMORY), [body[:3], body[3:]]).status == 413


def test_values_of_all_requests_together(busy: BodyLimit) -> None:
    """What counts of a body is the larger part: half of the values is as much as half of the bytes."""
    busy.held, busy.values = HELD * LARGE - LARGE // 2, 1000
    before = busy.held
    assert upload(busy, [b"[" + b"1," * 498 + b"1]"]).status == 200
    assert upload(busy, [b"[" + b"1," * 501 + b"1]"]).status == 503
    assert upload(busy, [b"[" + b"1," * 501 + b"1]"], client="203.0.113.5").status == 503
    assert busy.held == before
    busy.held = 10 * HELD * LARGE
    assert upload(busy, [b"[" + b"1," * 60 + b"1]"]).status == 200
    busy.held, busy.of["203.0.113.5"] = 0, int(SHARE * LARGE) - LARGE // 2
    assert upload(busy, [b"[" + b"1," * 501 + b"1]"], client="203.0.113.5").status == 503


def test_app_answers_in_its_own_way() -> None:
    """Starlette, and so FastAPI, sees its own exception where it reads the body, and whatever it does with those."""

    async def upload_route(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def own(_request: Request, error: Exception) -> Response:
        return PlainTextResponse(f"mine: {getattr(error, 'detail', '')}", status_code=413)

    app = Starlette(routes=[Route("/", upload_route, methods=["POST"])], exception_handlers={413: own})
    assert upload(BodyLimit(app, LIMIT, MEMORY), [b"x" * 101]).body == b"mine: A request's body may have 100 bytes."


def test_app_without_starlette() -> None:
    """Where the app's environment has none the refusal is the stack's alone."""
    done = subprocess.run([sys.executable, "-c", BARE], cwd=REPO, capture_output=True, text=True, timeout=60)
    assert done.stdout == 'False 413 {"detail":"A request\'s body may have 100 bytes."}\n', done.stderr


def test_answer_that_has_begun_is_not_answered_again() -> None:
    """An app that answers before it has read all is cut off where it reads too much."""

    async def early(_scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200))
        await receive()
        await send(part(b"never"))

    found = upload(BodyLimit(early, LIMIT, MEMORY), [b"x" * 101])
    assert found.error
    assert found.sent == [start(200)]


def test_body_that_nobody_reads() -> None:
    """A small one costs nothing, and the answer is the app's."""
    assert upload(BodyLimit(answering(200, b"fine"), LIMIT, MEMORY), [b"x"], "1").body == b"fine"
