"""FastAPI's 422, held to a size, through FastAPI itself."""

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from inspect import unwrap
from typing import Annotated, Any

import pytest
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from starlette.middleware.gzip import GZipMiddleware

from runtime import invalid
from runtime.away import Away
from runtime.health import ASGIApp
from tests.conftest import REPO
from tests.runtime.asgi import Answer, ask

# Eight bodies at one time, each in two parts, by one client; prints the answers, and by how many MiB the worker grew.
EIGHT = """
import asyncio, json, sys
from pathlib import Path
from fastapi import FastAPI
from pydantic import create_model
from runtime import invalid
from runtime.away import Away
from runtime.body import BodyLimit
app = FastAPI()
Model = create_model("Model", **{name: (int, ...) for name in "abcde"})
@app.post("/")
async def items(items: list[Model]) -> int:
    return len(items)
invalid.bound()
around = BodyLimit(Away(app, 0), 10_000_000, 150 * 2**20)
def memory(what):
    return int(next(one for one in Path("/proc/self/status").open() if one.startswith(what)).split()[1]) >> 10
async def post(body, status):
    parts = [body[: len(body) // 2], body[len(body) // 2 :]]
    async def receive():
        for _ in range(50):
            await asyncio.sleep(0)
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}
    async def send(message):
        status.append(message.get("status"))
    headers = [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")]
    scope = {"type": "http", "method": "POST", "path": "/", "root_path": "", "query_string": b"", "headers": headers}
    await around({**scope, "client": ("192.0.2.1", 1), "state": {}}, receive, send)
    return status[0]
async def all(count):
    body = b"[" + b"{}," * count + b"{}]"
    return [await post(b"[]", [])] + await asyncio.gather(*(post(body, []) for _ in range(8))) + [await post(b"[]", [])]
asyncio.run(all(10))
before = memory("VmRSS")
statuses = asyncio.run(all(int(sys.argv[1])))
print(json.dumps([statuses, memory("VmHWM") - before]))
"""


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """FastAPI's own way until this is called, which holds for the test."""
    # Another test of this process may have called it before.
    monkeypatch.setattr(RequestValidationError, "__init__", unwrap(RequestValidationError.__init__))
    monkeypatch.setattr(TypeAdapter, "validate_python", unwrap(TypeAdapter.validate_python))
    return invalid.bound


class Item(BaseModel):
    name: str
    tags: list[str] = []


def app() -> FastAPI:
    made = FastAPI()

    @made.post("/item")
    async def item(item: Item) -> int:
        return 1

    @made.post("/items")
    async def items(items: list[Item]) -> int:
        return len(items)

    @made.post("/few")
    async def few(items: Annotated[list[Item], Field(max_length=3)]) -> int:
        return len(items)

    return made


def post(app: ASGIApp, path: str, body: bytes) -> Answer:
    headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
    return ask(app, "POST", path, [body], headers)


def detail(answer: Answer) -> list[dict[str, Any]]:
    assert answer.status == 422
    found: list[dict[str, Any]] = json.loads(answer.body)["detail"]
    return found


SMALL = [
    ("/item", b"{}"),
    ("/item", b'{"name": 5, "tags": [1, {"a": [null]}]}'),
    ("/item", b"not json"),
    ("/items", b"[{}, {}, 5]"),
    ("/item", b'"' + b"x" * 9_000 + b'"'),
]


@pytest.mark.parametrize(("path", "body"), SMALL, ids=lambda word: str(word)[:30])
def test_answer_to_a_small_mistake_stays_as_it_is(bound: Callable[[], None], path: str, body: bytes) -> None:
    """To the byte what FastAPI sends without it."""
    plain = post(app(), path, body).body
    bound()
    assert post(app(), path, body).body == plain


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"{}," * 5_000 + b"{}]",
        b'"' + b"x" * 20_000 + b'"',
        b'{"a": [' + b"1," * 999 + b"1]}",
    ],
    ids=["many", "long", "inside"],
)
def test_large_input_is_not_sent_back(bound: Callable[[], None], body: bytes) -> None:
    """What is wrong, and where, without the input itself."""
    [plain] = detail(post(app(), "/item", body))
    bound()
    [found] = detail(post(app(), "/item", body))
    assert found == {name: value for name, value in plain.items() if name != "input"}


def test_many_errors_are_the_first_and_their_number(bound: Callable[[], None]) -> None:
    """A list of a thousand wrong things is answered with the first hundred."""
    body = b"[" + b"{}," * 999 + b"{}]"
    plain = detail(post(app(), "/items", body))
    bound()
    found = detail(post(app(), "/items", body))
    assert found[:-1] == plain[: invalid.MOST_ERRORS]
    assert found[-1]["msg"] == "1000 errors; these are the first 100."


def test_more_errors_than_are_made(bound: Callable[[], None]) -> None:
    """Of a small body's many errors FastAPI makes one, with their number; of as many as that it makes all."""
    bound()
    tracemalloc.start()
    try:
        answer = post(app(), "/items", b"[" + b"{}," * 21_000 + b"{}]")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    found = {"type": "too_many_errors", "loc": ["body"], "msg": "21001 errors: too many to say them.", "input": None}
    assert detail(answer) == [found]
    # The objects that the JSON became, and the errors of pydantic's own: not FastAPI's, of 970 bytes each.
    assert most < 21_001 * 600
    all_made = detail(post(app(), "/items", b"[" + b"{}," * (invalid.MOST_MADE - 1) + b"{}]"))
    assert len(all_made) == invalid.MOST_ERRORS + 1


@pytest.mark.parametrize(("count", "expected"), [(333_333, {413, 503}), (45_000, {422, 503})])
def test_eight_bodies_of_wrong_values(count: int, expected: set[int]) -> None:
    """1 MB each, and as much as is read: the worker grows by less than WORKER_MEMORY, and serves on."""
    program = [sys.executable, "-c", EIGHT, str(count)]
    done = subprocess.run(program, cwd=REPO, capture_output=True, text=True, timeout=120)
    (first, *statuses, last), grown = json.loads(done.stdout or pytest.fail(done.stderr))
    assert (first, last) == (200, 200)
    assert set(statuses) <= expected
    assert grown < 150


def test_apps_own_use_of_pydantic_is_as_it_was(bound: Callable[[], None]) -> None:
    """Who validates a million rows is told what is wrong with each."""
    bound()
    with pytest.raises(ValidationError) as error:
        TypeAdapter(list[Item]).validate_python([{}] * 2_000)
    assert len(error.value.errors()) == 2_000
    assert RequestValidationError("as planned").errors() == "as planned"


def test_length_that_the_route_says_costs_nothing() -> None:
    """A route whose list has a max_length makes one error, whatever is in the list."""
    assert [one["type"] for one in detail(post(app(), "/few", b"[" + b"{}," * 999 + b"{}]"))] == ["too_long"]


def test_long_key_is_cut(bound: Callable[[], None]) -> None:
    """Where it was wrong may itself be from the input."""

    made = FastAPI()

    @made.post("/")
    async def numbers(numbers: dict[str, int]) -> int:
        return 1

    bound()
    [found] = detail(post(made, "/", json.dumps({"k" * 50_000: "x"}).encode()))
    assert found["loc"] == ["body", "k" * invalid.MOST_VALUES]


def test_no_depth_is_a_bug(bound: Callable[[], None]) -> None:
    """What Python just reads FastAPI's encoder, which takes several steps a level, need not send back."""
    bound()
    around = Away(app(), 0)
    for depth in (invalid.MOST_LEVELS - 1, invalid.MOST_LEVELS, 300, *range(900, 1000), 10_000, 300_000):
        found = post(around, "/item", b"[" * depth + b"]" * depth)
        if depth > 900 and found.status == 400:
            continue
        [error] = detail(found)
        assert ("input" in error) == (depth <= invalid.MOST_LEVELS)


@pytest.mark.parametrize("kind", ["asynchronous", "synchronous"])
def test_apps_own_handler(bound: Callable[[], None], kind: str) -> None:
    """It is given the smaller error; inside a mounted app and behind middleware as well."""
    inner = app()

    def answer(_request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"mine": list(error.errors()[0]), "body": error.body, "text": len(str(error)) < 1000}, 400)

    async def later(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(request, error)

    inner.add_exception_handler(RequestValidationError, later if kind == "asynchronous" else answer)  # type: ignore[arg-type]
    outer = FastAPI()
    outer.mount("/inner", inner)
    wrapped = GZipMiddleware(outer, minimum_size=10**9)
    bound()
    found = post(wrapped, "/inner/item", b"[" + b"{}," * 5_000 + b"{}]")
    assert (found.status, json.loads(found.body)) == (400, {"mine": ["type", "loc", "msg"], "body": None, "text": True})
    assert json.loads(post(wrapped, "/inner/item", b'{"tags": []}').body)["body"] == {"tags": []}


def test_environment_without_fastapi(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to hold to anything."""
    monkeypatch.delitem(sys.modules, "fastapi.exceptions")
    invalid.bound()
