"""`./stack maintenance`: 503 and a page for all but those who are let in, while every slot goes on."""

from collections.abc import Iterator

import httpx2
import pytest

from tests.stack.backups import ok
from tests.stack.echo import Echo
from tests.stack.stacks import inspect, wait_until

MINE = "<!doctype html><title>Closed</title><p>Wir räumen um.</p>"


@pytest.fixture
def door(echo: Echo) -> Iterator[Echo]:
    """The stack, whose maintenance is off before and after."""
    ok(echo.stack("up"))
    yield echo
    (echo.folder / "maintenance.html").unlink(missing_ok=True)
    ok(echo.stack("maintenance", "off"))


def shows(echo: Echo, text: str) -> bool:
    try:
        with echo.client() as client:
            answer = client.get("/")
    except httpx2.TransportError:
        return False
    return answer.status_code == 503 and text in answer.text and answer.headers.get("Retry-After") == "10"


def switch(echo: Echo) -> str:
    return (echo.folder / "traefik/dynamic/maintenance.yaml").read_text()


def test_page_for_everybody(door: Echo) -> None:
    """Whatever is asked for, how ever: 503, when to ask again, and the page; `/health` says how the app is."""
    before = {name: (one["Id"], one["State"]["StartedAt"]) for name, one in door.containers().items()}
    said = ok(door.stack("maintenance", "on"))
    assert "Maintenance is on, nobody is let in: `./stack maintenance off` ends it." in said
    wait_until(lambda: shows(door, "Back soon"))
    with door.client(http2=True) as client:
        for method, path in (("GET", "/x?y=1"), ("POST", "/"), ("PUT", "/big"), ("HEAD", "/"), ("OPTIONS", "/items")):
            seen = {"If-None-Match": "*", "Range": "bytes=0-1", "Accept": "application/json"}
            answer = client.request(method, path, headers=seen, content=b"x" * 100_000 if method == "POST" else None)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10"), (method, path)
            assert ("Back soon" in answer.text) == (method != "HEAD"), (method, path)
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Cache-Control"] == "no-store"
            assert "Server" not in answer.headers
        assert client.get("/health").status_code == 200
        assert client.get("/ready").status_code == 404
    now = {name: (one["Id"], one["State"]["StartedAt"]) for name, one in door.containers().items()}
    shown = now.pop("maintenance")
    assert now == before
    host = inspect(shown[0])["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Memory"]) == (True, ["ALL"], 64 * 2**20)
    said = ok(door.stack("maintenance", "off"))
    assert said == "Maintenance is off.\n"
    assert door.both_slots_answer()
    assert "maintenance" not in door.containers()


def test_own_page_and_what_it_outlives(door: Echo) -> None:
    """The user's page, changed by another `on`; still on after a restart of all, an `up` and a kill of the page."""
    (door.folder / "maintenance.html").write_text("first")
    ok(door.stack("maintenance", "on"))
    wait_until(lambda: shows(door, "first"))
    (door.folder / "maintenance.html").write_text(MINE)
    ok(door.stack("maintenance", "on"))
    wait_until(lambda: shows(door, MINE))
    door.compose("restart", "--timeout", "1")
    wait_until(lambda: shows(door, MINE))
    # Nobody is left to show the page, as where a killed command had not come that far.
    door.compose("rm", "--stop", "--force", "maintenance")
    wait_until(lambda: shows(door, "") and not shows(door, MINE))
    for verb in ("up", "releases"):
        assert "Maintenance is on, nobody is let in" in ok(door.stack(verb))
    wait_until(lambda: shows(door, MINE))
    # As a kill between the two steps leaves it.
    (door.folder / "traefik/dynamic/maintenance.yaml").unlink()
    wait_until(lambda: not shows(door, ""))
    ok(door.stack("maintenance", "off"))
    assert door.both_slots_answer()
    assert "maintenance" not in door.containers()
    ok(door.stack("maintenance", "off"))


def test_who_is_let_in(door: Echo) -> None:
    """An address and a network, by what connected; no header changes it, and nobody else comes in."""
    ok(door.stack("maintenance", "on", "--allow", "192.0.2.7", "--allow", f"2001:db8::/64,{door.gateway()}"))
    saw = door.ask("/admin", **{"X-Forwarded-For": "198.51.100.1"})
    assert saw["client"] == door.gateway()
    assert not [value for name, value in saw["headers"] if name == "x-counted"]
    with door.client() as client:
        assert client.get("/status/503").headers["X-Maintenance"] in switch(door)
    ok(door.stack("maintenance", "on", "--allow", "192.0.2.7"))
    with door.client() as client:
        for forged in ("192.0.2.7", f"192.0.2.7, {door.gateway()}"):
            assert client.get("/", headers={"X-Forwarded-For": forged}).status_code == 503
    done = door.stack("maintenance", "on", "--allow", "office")
    assert (done.returncode, done.stderr) == (
        2,
        "--allow office is wrong: an address, like 203.0.113.7, or a network.\n",
    )
    assert '"192.0.2.7/32"' in switch(door)


@pytest.fixture
def behind(door: Echo) -> Iterator[Echo]:
    door.recreate("traefik", "app-1", "app-2", TRUSTED_PROXIES=f"{door.gateway()}/32,192.0.2.0/24", RATE_LIMIT="100")
    yield door
    door.recreate("traefik", "app-1", "app-2")


def test_who_is_let_in_behind_a_proxy(behind: Echo) -> None:
    """The client that a trusted proxy names, and not what that client said of itself."""
    ok(behind.stack("maintenance", "on", "--allow", "198.51.100.7"))
    wait_until(lambda: shows(behind, "Back soon"))
    with behind.client() as client:

        def asked(*told: str) -> httpx2.Response:
            return client.get("/", headers=[("X-Forwarded-For", one) for one in told])

        assert asked("198.51.100.7").json()["client"] == "198.51.100.7"
        assert asked("203.0.113.1, 198.51.100.7, 192.0.2.5").status_code == 200
        for told in (("198.51.100.8",), ("198.51.100.7, 198.51.100.8",), ("198.51.100.7", "198.51.100.8"), ("x",), ()):
            assert asked(*told).status_code == 503
    ok(behind.stack("maintenance", "off"))
