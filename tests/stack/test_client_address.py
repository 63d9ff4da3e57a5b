"""Who the app takes a client for, through the real Traefik."""

import json
import os
import shutil
import socket
import ssl
import sys
from collections.abc import Iterator

import pytest

from tests.stack.echo import Echo
from tests.stack.stacks import inspect, run, wait_until

FORGED = "198.51.100.66"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": FORGED},
        {"X-Forwarded-For": f"{FORGED}, 127.0.0.1"},
        {"x-forwarded-for": FORGED, "X-Real-Ip": FORGED},
        {"X-Forwarded-Proto": "http"},
        {"X-Forwarded-Host": "evil.test", "X-Forwarded-Port": "80", "X-Forwarded-Server": "evil.test"},
        {"Forwarded": f"for={FORGED};proto=http;host=evil.test"},
        {"X-Client-Ip": FORGED, "True-Client-Ip": FORGED, "CF-Connecting-Ip": FORGED},
        {"Connection": "X-Forwarded-For, X-Forwarded-Proto, X-Real-Ip"},
    ],
    ids=str,
)
def test_forged_headers(echo: Echo, headers: dict[str, str]) -> None:
    """What a request says of itself changes nothing: the app sees the real peer, and https."""
    saw = echo.ask(**headers)
    assert saw["client"] == echo.gateway()
    assert saw["scheme"] == "https"
    told = {name: value for name, value in saw["headers"] if name.startswith("x-forwarded-") or name == "x-real-ip"}
    assert told["x-forwarded-for"] == echo.gateway()
    assert told["x-real-ip"] == echo.gateway()
    assert told["x-forwarded-proto"] == "https"
    assert "evil.test" not in json.dumps(saw["headers"]).replace("host=evil.test", "")
    assert not [value for name, value in saw["headers"] if name == "forwarded"]


# By which gateways in front of an app say who is signed in, or what was asked for.
VOUCHED = {
    "X-Forwarded-User": "admin",
    "X-Auth-Request-Email": "admin@example.com",
    "Remote-User": "admin",
    "X-Forwarded-Groups": "admins",
    "X-Forwarded-Prefix": "/evil",
    "X-Original-URL": "/admin",
    "Tailscale-User-Login": "admin",
    # Of no gateway that anybody knows.
    "X-Forwarded-Roles": "admin",
    "X-Auth-Request-Invented": "admin",
    "Remote-Invented": "admin",
}


def test_nobody_says_from_outside_who_is_signed_in(echo: Echo) -> None:
    """An app behind a gateway believes such headers: from outside none passes, nor what Traefik uses to count."""
    names = {name for name, _ in echo.ask(**VOUCHED, **{"X-Counted": "mine", "X-Mine": "passes"})["headers"]}
    assert not names & {name.lower() for name in (*VOUCHED, "X-Counted", "X-From-Outside")}
    assert "x-mine" in names
    names = {name for name, _ in echo.ask(**VOUCHED, Connection="X-From-Outside", **{"X-From-Outside": ""})["headers"]}
    assert not names & {name.lower() for name in (*VOUCHED, "X-From-Outside")}


def test_duplicate_headers(echo: Echo) -> None:
    """Twice is no different from once."""
    with echo.client() as client:
        twice = [("X-Forwarded-For", FORGED), ("X-Forwarded-For", FORGED), ("X-Forwarded-Proto", "http")] * 2
        saw = client.get("/", headers=twice).json()
    assert (saw["client"], saw["scheme"]) == (echo.gateway(), "https")


@pytest.mark.parametrize("name", ["X_Forwarded_For", "X_Real_IP", "x_forwarded_proto", "X.Forwarded.For", "X-Real_Ip"])
def test_look_alike_headers(echo: Echo, name: str) -> None:
    """A name that some frameworks read as another one is refused."""
    with echo.client() as client:
        assert client.get("/", headers={name: FORGED}).status_code == 400


ASK = """
import json, ssl, sys, urllib.request
context = ssl._create_unverified_context()
print(urllib.request.urlopen(sys.argv[1], context=context, timeout=10).read().decode())
"""


@pytest.fixture
def neighbour() -> Iterator[str]:
    """A network namespace with an IPv6 address of its own, as another machine would have one."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("needs root and iproute2")
    name = f"stack-{os.getpid()}"
    link = f"stk{os.getpid() % 10**6}"
    run("ip", "netns", "add", name)
    try:
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "address", "add", "fd5b:6c0a:ffff::1/64", "dev", link, "nodad")
        run("ip", "link", "set", link, "up")
        run("ip", "-n", name, "address", "add", "fd5b:6c0a:ffff::2/64", "dev", "eth0", "nodad")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        yield name
    finally:
        run("ip", "netns", "delete", name)
        run("ip", "link", "delete", link, check=False)


def test_ipv6(echo: Echo, neighbour: str) -> None:
    """A client with IPv6 is seen by its own address, not as the gateway."""
    url = f"https://[fd5b:6c0a:ffff::1]:{echo.https_port}/"
    said = run("ip", "netns", "exec", neighbour, sys.executable, "-c", ASK, url)
    assert json.loads(said)["client"] == "fd5b:6c0a:ffff::2"


@pytest.fixture
def behind_proxy(echo: Echo) -> Iterator[Echo]:
    """The stack as if the clients' machine were a CDN's, with a limit for each client."""
    echo.recreate("traefik", "app-1", "app-2", TRUSTED_PROXIES=f"{echo.gateway()}/32,192.0.2.0/24", RATE_LIMIT="5")
    yield echo
    echo.recreate("traefik", "app-1", "app-2")


def test_trusted_proxy(behind_proxy: Echo) -> None:
    """What a named proxy says of the client is believed, what the client told the proxy is not; each has its limit.

    Who is signed in is the proxy's to say, too.
    """
    for told, seen in (
        ("198.51.100.7", "198.51.100.7"),
        (f"{FORGED}, 198.51.100.8", "198.51.100.8"),
        (f"{FORGED}, 198.51.100.9, 192.0.2.5", "198.51.100.9"),
        ("2001:db8:1::7", "2001:db8:1::7"),
    ):
        assert behind_proxy.ask(**{"X-Forwarded-For": told})["client"] == seen
    # Who says of itself that it comes from outside is not believed in that, either.
    told_so = {"X-Forwarded-For": "198.51.100.10", "X-From-Outside": "true"}
    passed = dict(behind_proxy.ask(**VOUCHED, **told_so)["headers"])
    assert passed.items() >= {name.lower(): value for name, value in VOUCHED.items()}.items()
    assert not {"x-counted", "x-from-outside"} & set(passed)
    with behind_proxy.client() as client:
        refused = [
            answer
            for answer in (client.get("/", headers={"X-Forwarded-For": "198.51.100.20"}) for _ in range(40))
            if answer.status_code == 429
        ]
        assert refused
        # The one header of what is refused before it is routed to the app.
        assert {answer.headers.get("X-Content-Type-Options") for answer in refused} == {"nosniff"}
        assert client.get("/", headers={"X-Forwarded-For": "198.51.100.21"}).status_code == 200


FROM_MANY = """
import http.client, ssl, sys
context = ssl._create_unverified_context()
for n in 5 * list(range(2, 16)):
    connection = http.client.HTTPSConnection(
        sys.argv[1], int(sys.argv[2]), timeout=10, context=context, source_address=(f"fd5b:6c0a:ffff::{n:x}", 0)
    )
    connection.request("GET", "/")
    print(connection.getresponse().status)
"""


@pytest.mark.parametrize("proxies", ["", "192.0.2.0/24"], ids=["no proxy", "past the proxy"])
def test_rate_limit_by_network(echo: Echo, neighbour: str, proxies: str) -> None:
    """One customer has 2**64 addresses of IPv6: they count as one client, and others are not held to it.

    Nor where proxies are named, and these clients come past them.
    """
    for n in range(3, 16):
        run("ip", "-n", neighbour, "address", "add", f"fd5b:6c0a:ffff::{n:x}/64", "dev", "eth0", "nodad")
    echo.recreate("traefik", RATE_LIMIT="10", TRUSTED_PROXIES=proxies)
    try:
        argv = (sys.executable, "-c", FROM_MANY, "fd5b:6c0a:ffff::1", str(echo.https_port))
        assert "429" in run("ip", "netns", "exec", neighbour, *argv).split()
        assert echo.ask()["scheme"] == "https"
    finally:
        echo.recreate("traefik")


def check(echo: Echo, door: str, host: str, name: str | None = None, **headers: str) -> int:
    """The status that a load balancer's check of `/health` gets: 0 where there is no connection."""
    context = ssl._create_unverified_context()  # noqa: S323 - self-signed
    port = echo.https_port if door == "https" else echo.http_port
    with socket.create_connection(("127.0.0.1", port), 10) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=name) if door == "https" else plain as connection:
                lines = [f"Host: {host}", *(f"{header}: {value}" for header, value in headers.items())]
                connection.sendall("\r\n".join(["GET /health HTTP/1.1", *lines, "Connection: close", "", ""]).encode())
                return int(connection.recv(12).split()[1])
        except ssl.SSLError:
            return 0


# How a load balancer may ask: by HTTP or HTTPS, by address or by name, with another name in the handshake or none.
CHECKS = [
    ("http", "192.0.2.1", None),
    ("http", "app.test", None),
    ("https", "192.0.2.1", None),
    ("https", "app.test", None),
    ("https", "192.0.2.1", "app.test"),
    ("https", "app.test", "app.test"),
    ("https", "app.test", "other.test"),
]


@pytest.fixture
def public(echo: Echo) -> Iterator[Echo]:
    yield echo
    echo.recreate("traefik")


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "anyone"])
def test_check_of_a_load_balancer(public: Echo, trusted: bool) -> None:
    """`/health` answers TRUSTED_PROXIES however they name it, over the limits, too; nobody else."""
    proxies = f"{public.gateway()}/32" if trusted else "192.0.2.0/24"
    public.start("traefik", DOMAIN="app.test", TRUSTED_PROXIES=proxies, RATE_LIMIT="1")
    wait_until(lambda: check(public, "https", "app.test", "app.test") == 200)
    if trusted:
        found = {one: [check(public, *one) for _ in range(5)] for one in CHECKS}
        assert found == dict.fromkeys(CHECKS, [200] * 5)
        # For a client of the proxy's it is a request like any other.
        assert check(public, "https", "192.0.2.1", **{"X-Forwarded-For": FORGED}) == 404
        assert check(public, "http", "192.0.2.1", **{"X-Forwarded-For": FORGED}) == 301
    else:
        assert check(public, "https", "192.0.2.1") == 404
        assert check(public, "http", "192.0.2.1") == 301
        assert 429 in [check(public, "https", "app.test", "app.test") for _ in range(10)]


DIRECTLY = """
import json, sys, urllib.request
told = {"X-Forwarded-For": "198.51.100.66", "X-Forwarded-Proto": "https"}
request = urllib.request.Request(sys.argv[1], headers=told)
print(json.dumps(json.load(urllib.request.urlopen(request, timeout=10))))
"""


def address(echo: Echo, container: str) -> str:
    """Its address on the network of Traefik and the slots."""
    found: str = inspect(container)["NetworkSettings"]["Networks"][f"{echo.project}_web"]["IPAddress"]
    return found


@pytest.fixture
def beside(echo: Echo) -> Iterator[str]:
    """A container of somebody's on that network, made while Traefik is away, whose address it may get."""
    name, network = f"{echo.project}-beside", f"{echo.project}_web"
    echo.compose("rm", "--stop", "--force", "traefik")
    sleep = ("--entrypoint", "python", f"{echo.project}-app:latest", "-c", "import time; time.sleep(600)")
    run("docker", "run", "--detach", "--init", "--name", name, "--network", network, *sleep)
    try:
        echo.recreate("traefik")
        yield name
    finally:
        run("docker", "rm", "--force", name)
        echo.recreate("traefik")


def test_only_traefik_is_believed(echo: Echo, beside: str) -> None:
    """Neither a container on the slots' network nor the host says who the client is; Traefik does, wherever it is."""
    slot = address(echo, echo.container("app-1"))
    said = json.loads(run("docker", "exec", beside, "python", "-c", DIRECTLY, f"http://{slot}:8000/"))
    assert (said["client"], said["scheme"]) == (address(echo, beside), "http")
    said = json.loads(run(sys.executable, "-c", DIRECTLY, f"http://{slot}:8000/"))
    assert said["client"] not in (FORGED, address(echo, echo.container("traefik")))
    assert said["scheme"] == "http"
    for _ in range(4):
        saw = echo.ask()
        assert (saw["client"], saw["scheme"]) == (echo.gateway(), "https")
