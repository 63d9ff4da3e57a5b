"""COMPRESS: the app's answers compressed, by the real Traefik."""

from collections.abc import Iterator

import httpx2
import pytest

from tests.stack.echo import Echo

# The app repeats what reached it: with this its answer is long enough.
LONG = {"X-Long": "la" * 750}


@pytest.fixture(scope="module")
def compressing(echo: Echo) -> Iterator[Echo]:
    echo.recreate("traefik", COMPRESS="gzip")
    yield echo
    echo.recreate("traefik")


def ask(echo: Echo, path: str, encoding: str = "gzip, br, zstd", **headers: str) -> httpx2.Response:
    with echo.client(headers={"Accept-Encoding": encoding, **headers}) as client:
        return client.get(path)


def test_off_by_default(echo: Echo) -> None:
    """Without the setting nothing is compressed."""
    assert "Content-Encoding" not in ask(echo, "/", **LONG).headers


def test_text_is_compressed(compressing: Echo) -> None:
    """Where it is long enough, for who takes it; a part of a file and a short answer stay as they are."""
    answer = ask(compressing, "/", **LONG)
    assert (answer.headers["Content-Encoding"], answer.headers["Vary"]) == ("gzip", "Accept-Encoding")
    assert int(answer.headers["Content-Length"]) < 1000 < len(answer.content)
    assert dict(answer.json()["headers"])["x-long"] == LONG["X-Long"]
    for other in (
        ask(compressing, "/"),
        ask(compressing, "/", "identity", **LONG),
        ask(compressing, "/status/206", **LONG),
    ):
        assert "Content-Encoding" not in other.headers
        assert other.json()["body"] == 0
    whole = ask(compressing, "/big").content
    assert len(whole) > 200_000_000


def test_stream_flows(compressing: Echo) -> None:
    """What the app has sent arrives before it sends more."""
    with (
        compressing.client(headers={"Accept-Encoding": "gzip", **LONG}) as client,
        client.stream("GET", "/hold") as answer,
    ):
        assert answer.headers["Content-Encoding"] == "gzip"
        assert next(answer.iter_bytes()).startswith(b"{")
