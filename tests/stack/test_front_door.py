"""What a client sees, through the real Traefik."""

import contextlib
import http.client
import re
import socket
import ssl
import threading
import time

import httpx2
import pytest

from tests.stack.echo import everything
from tests.stack.stacks import Stack


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
def test_https(stack: Stack, version: str) -> None:
    """The app answers over TLS, in both versions of HTTP."""
    with stack.client(http2=version == "HTTP/2") as client:
        answer = client.get("/items/5?q=somequery")
    assert answer.http_version == version
    assert answer.json() == {"item_id": 5, "q": "somequery"}


def test_both_slots_take_requests(stack: Stack, client: httpx2.Client) -> None:
    """Traefik shares the requests between the slots."""
    begun = f"{time.time():.3f}"
    for _ in range(10):
        assert client.get("/").status_code == 200
    assert stack.slots_since(begun) == {"app-1", "app-2"}


def test_http_redirects_to_https(stack: Stack) -> None:
    """HTTP answers with the same address in HTTPS, on the port that this machine publishes, and nothing else."""
    answer = httpx2.get(f"http://localhost:{stack.http_port}/notes?limit=1")
    assert answer.status_code in (301, 308)
    assert answer.headers["Location"] == f"{stack.address}/notes?limit=1"


@pytest.mark.parametrize(
    ("line", "host", "place"),
    [
        ("GET /x?y=1", "[::1]:{port}", "[::1]:{https}/x?y=1"),
        ("GET /x", "[::1]", "[::1]:{https}/x"),
        ("GET /x", "app.test:81", "app.test:{https}/x"),
        ("GET /x", "app.test:", "app.test:{https}/x"),
        ("GET http://app.test:81/x", "other.test", "app.test:{https}/x"),
        ("GET //other.test/x", "app.test", "app.test:{https}/other.test/x"),
        ("GET /x", "::1", None),
        ("GET /x", "a:b:c", None),
        ("GET /x", "user@app.test", None),
        ("GET /x", "", None),
    ],
)
def test_redirect_of_any_host(stack: Stack, line: str, host: str, place: str | None) -> None:
    """Whatever Host says, the port is left out, and an address of IPv6 kept; a Host that is none gets a 4xx."""
    ports = {"port": stack.http_port, "https": stack.https_port}
    with socket.create_connection(("127.0.0.1", stack.http_port), 10) as connection:
        connection.sendall(f"{line} HTTP/1.1\r\nHost: {host.format(**ports)}\r\nConnection: close\r\n\r\n".encode())
        status, _, rest = everything(connection).decode().partition("\r\n")
    if place is None:
        assert re.match(r"HTTP/1\.1 4\d\d ", status)
    else:
        assert re.findall(r"^Location: (.*)\r$", rest, re.MULTILINE) == [f"https://{place.format(**ports)}"]


@pytest.mark.parametrize("path", ["/live", "/ready", "//ready", "/%72eady", "/x/../ready", "/ready?x", "/./live"])
def test_probes_are_not_routed(stack: Stack, path: str) -> None:
    """/live and /ready are for probes from inside, however they are spelled."""
    # Not by httpx2, which would tidy the path up.
    untrusting = ssl._create_unverified_context()  # noqa: S323 - self-signed
    connection = http.client.HTTPSConnection("localhost", stack.https_port, timeout=10, context=untrusting)
    with contextlib.closing(connection):
        connection.request("GET", path)
        assert connection.getresponse().status == 404


def test_health_is_routed(client: httpx2.Client) -> None:
    """/health says from outside that the database answers and its schema is the code's."""
    answer = client.get("/health")
    assert answer.status_code == 200
    assert answer.json()["at_head"] is True


def test_app_knows_the_scheme_and_the_name(stack: Stack, client: httpx2.Client) -> None:
    """The app trusts what Traefik says of the request: links that it makes are those of the outside."""
    answer = client.post("/notes", json={"text": "where am I?"})
    assert answer.headers["Location"] == f"{stack.address}/notes/{answer.json()['id']}"


def test_stored_notes_survive_down_and_up(stack: Stack) -> None:
    """What was acknowledged is there after `compose down` and `up`."""
    with stack.client() as client:
        note = client.post("/notes", json={"text": "still here? 🙂"}).json()
    stack.compose("down")
    stack.up()
    with stack.client() as client:
        assert client.get(f"/notes/{note['id']}").json() == note


@pytest.mark.parametrize("how", ["stop", "restart"])
def test_stopping_a_slot_drops_no_request(stack: Stack, how: str) -> None:
    """A slot that is stopped, in whatever way, drains first: requests one after the other never notice."""
    stop = threading.Thread(target=stack.compose, args=(how, "app-1"))
    stop.start()
    answers = []
    with stack.client() as client:
        while stop.is_alive():
            answers.append(client.get("/").status_code)
        answers += [client.get("/").status_code for _ in range(20)]
    assert set(answers) == {200}
    # As long as the drain takes.
    assert len(answers) > 100
    stack.up()
