"""A password or an address, for a path or the whole app: what has no right never reaches a slot."""

import contextlib
import http.client
import os
import ssl
import time
from collections.abc import Callable, Iterator

import pytest

from tests.stack.backups import ok
from tests.stack.echo import Echo
from tests.stack.stacks import CLEAN, inspect, run, wait_until

TRAEFIK = 10010
ALICE, BOB = ("alice", "a secret"), ("bob", "another one")
# However the path is written: what an app, or a framework below it, might take for /admin.
SPELLED = [
    "/admin",
    "/admin/",
    "/admin/users?x=1",
    "/admin;x=1",
    "/admin%3bx",
    "/admin%20",
    "/ADMIN",
    "/aDmin/x",
    "/administrators",
    "//admin",
    "///admin//x",
    "/./admin",
    "/x/../admin",
    "/x/%2e%2e/admin",
    "/x/%2E./admin",
    "/%2e/admin",
    "/%61dmin",
    "/%41DMIN",
    "/a%64min/x",
    "/health/../admin",
    "/health/%2e%2e/admin",
    "/ready/../admin",
    "/;/../admin",
    "/%2fadmin",
    "/x%2f..%2fadmin",
    "/%5cadmin",
    "/admin%00",
    "/x/..%5cadmin",
    "https://localhost/admin",
    "https://other.test//admin",
]


def users(echo: Echo, *pairs: tuple[str, str]) -> None:
    """Write the file of users as Traefik alone may read it."""
    path, draft = echo.folder / "traefik/dynamic/users", echo.folder / "users"
    hashed = [(name, run("openssl", "passwd", "-apr1", password).strip()) for name, password in pairs]
    draft.write_text("".join(f"{name}:{secret}\n" for name, secret in hashed))
    os.chown(draft, TRAEFIK, TRAEFIK)
    draft.chmod(0o400)
    draft.replace(path)


@pytest.fixture
def guarded(echo: Echo) -> Iterator[Callable[..., Echo]]:
    """Traefik with these settings; without them afterwards."""
    if os.geteuid():
        pytest.skip("needs root, to give Traefik a file")
    users(echo, ALICE)

    def start(*services: str, **settings: str) -> Echo:
        echo.start("traefik", *services, **settings)
        return echo

    yield start
    echo.recreate("traefik", "app-1", "app-2")
    (echo.folder / "traefik/dynamic/users").unlink()


def status(echo: Echo, path: str, **options: object) -> int:
    with echo.client() as client:
        return client.get(path, **options).status_code  # type: ignore[arg-type]


def raw(echo: Echo, path: str, method: str = "GET") -> int:
    """Not by a client that would tidy the path up."""
    untrusting = ssl._create_unverified_context()  # noqa: S323 - self-signed
    connection = http.client.HTTPSConnection("localhost", echo.https_port, timeout=10, context=untrusting)
    with contextlib.closing(connection):
        connection.request(method, path)
        return connection.getresponse().status


def test_password_for_a_path(guarded: Callable[..., Echo]) -> None:
    """Without it 401, however the path is spelled, and nothing reaches a slot; all else is open."""
    echo = guarded(BASIC_AUTH_FILE="users", BASIC_AUTH_PATHS="/admin/,/staff.old")
    wait_until(lambda: status(echo, "/") == 200)
    begun = f"{time.time():.3f}"
    for path in SPELLED:
        assert raw(echo, path) in (400, 401), path
    for method in ("POST", "HEAD", "OPTIONS", "DELETE"):
        assert raw(echo, "/admin", method) == 401
    assert [one for one in echo.seen(begun) if "min" in one.lower()] == []
    assert (raw(echo, "/staff.old/x"), raw(echo, "/staffxold"), raw(echo, "/x/admin"), raw(echo, "/health")) == (
        401,
        200,
        200,
        200,
    )
    assert (status(echo, "/admin", auth=BOB), status(echo, "/admin", auth=("alice", "guess"))) == (401, 401)
    with echo.client(auth=ALICE) as client:
        answer = client.get("/admin")
    assert answer.status_code == 200
    assert "authorization" not in dict(answer.json()["headers"])
    # As they come to an app, where nothing is guarded.
    assert dict(echo.ask("/x", Authorization="Bearer mine")["headers"])["authorization"] == "Bearer mine"
    # Without a restart; and what is secret is in no environment.
    before = inspect(echo.container("traefik"))
    users(echo, BOB)
    wait_until(lambda: status(echo, "/admin", auth=BOB) == 200 and status(echo, "/admin", auth=ALICE) == 401)
    assert inspect(echo.container("traefik"))["State"]["StartedAt"] == before["State"]["StartedAt"]
    assert "apr1" not in str(before)
    assert run("git", "check-ignore", "traefik/dynamic/users").strip() == "traefik/dynamic/users"


def test_password_for_everything(guarded: Callable[..., Echo]) -> None:
    """But for /health, by which `./stack` and load balancers go; HTTP still leads to HTTPS."""
    echo = guarded(BASIC_AUTH_FILE="users")
    wait_until(lambda: raw(echo, "/health") == 200)
    for path in ("/", "/docs", "/health/", "/healthz", "/x/../", "//", "/Health"):
        assert raw(echo, path) == 401, path
    assert status(echo, "/", auth=ALICE) == 200
    assert raw(echo, "/ready") == 404


def test_addresses(guarded: Callable[..., Echo]) -> None:
    """By what connected, for a path or all, whatever a request says of itself."""
    echo = guarded(ALLOW_FROM="192.0.2.0/24,2001:db8::1", ALLOW_PATHS="/admin")
    wait_until(lambda: status(echo, "/") == 200)
    for path in SPELLED:
        assert raw(echo, path) in (400, 403), path
    assert status(echo, "/admin", headers={"X-Forwarded-For": "192.0.2.7", "X-Real-Ip": "192.0.2.7"}) == 403
    guarded(ALLOW_FROM=f"192.0.2.0/24,{echo.gateway()}")
    wait_until(lambda: status(echo, "/") == 200)
    guarded(ALLOW_FROM="192.0.2.0/24")
    wait_until(lambda: raw(echo, "/health") == 200)
    assert status(echo, "/") == 403


def test_addresses_behind_a_proxy(guarded: Callable[..., Echo], echo: Echo) -> None:
    """The client that a trusted proxy names, and not what that client said; the proxy itself is nobody."""
    allow = {"ALLOW_FROM": "198.51.100.7", "ALLOW_PATHS": "/admin"}
    guarded("app-1", "app-2", **allow, TRUSTED_PROXIES=f"192.0.2.0/24,{echo.gateway()}")
    wait_until(lambda: status(echo, "/") == 200)
    for told, expected in (
        ("198.51.100.7", 200),
        ("203.0.113.9, 198.51.100.7, 192.0.2.5", 200),
        ("198.51.100.7, 203.0.113.9", 403),
        ("nonsense", 403),
    ):
        assert status(echo, "/admin", headers={"X-Forwarded-For": told}) == expected, told
    twice = [("X-Forwarded-For", "198.51.100.7"), ("X-Forwarded-For", "203.0.113.9")]
    assert status(echo, "/admin", headers=twice) == 403
    assert raw(echo, "/admin") == 403


def test_both(guarded: Callable[..., Echo]) -> None:
    """A path that both name needs both, and while maintenance is on, who is let in still needs them."""
    echo = guarded(
        BASIC_AUTH_FILE="users", BASIC_AUTH_PATHS="/admin,/a", ALLOW_FROM="192.0.2.1", ALLOW_PATHS="/admin,/b"
    )
    wait_until(lambda: status(echo, "/") == 200)
    assert [status(echo, path, auth=ALICE) for path in ("/admin", "/a", "/b", "/c")] == [403, 200, 403, 200]
    assert [status(echo, path) for path in ("/admin", "/a", "/b", "/c")] == [403, 401, 403, 200]
    try:
        ok(echo.stack("maintenance", "on"))
        assert {raw(echo, path) for path in ("/admin", "/a", "/b", "/c")} == {503}
        ok(echo.stack("maintenance", "on", "--allow", echo.gateway()))
        assert [status(echo, path, auth=ALICE) for path in ("/admin", "/a", "/b", "/c")] == [403, 200, 403, 200]
        assert [status(echo, path) for path in ("/admin", "/a", "/b", "/c")] == [403, 401, 403, 200]
    finally:
        ok(echo.stack("maintenance", "off"))


def test_guard_that_can_not_be_made(guarded: Callable[..., Echo]) -> None:
    """A file without users lets nobody in, and all else serves. Without the file Traefik ends, and says so."""
    echo = guarded(BASIC_AUTH_FILE="users", BASIC_AUTH_PATHS="/admin")
    wait_until(lambda: status(echo, "/admin", auth=ALICE) == 200)
    users(echo)
    wait_until(lambda: status(echo, "/admin", auth=ALICE) != 200)
    assert (raw(echo, "/admin"), raw(echo, "/")) == (404, 200)
    # Nor does an address alone open what needs both.
    guarded(BASIC_AUTH_FILE="users", ALLOW_FROM=echo.gateway())
    wait_until(lambda: status(echo, "/health") == 200)
    assert {raw(echo, path) for path in ("/", "/admin")} == {404}
    users(echo, ALICE)
    wait_until(lambda: status(echo, "/", auth=ALICE) == 200)
    assert status(echo, "/") == 401
    plain = ("docker", "compose", "--env-file", str(echo.env_file), "run", "--rm", "--no-deps", "-T", "traefik", "true")
    said = run(*plain, cwd=echo.folder, env={**CLEAN, "BASIC_AUTH_FILE": "nobody"}, check=False)
    assert "Traefik can't read ./traefik/dynamic/nobody, which a setting names: `chown 10010" in said
