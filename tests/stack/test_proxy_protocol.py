"""The client's address from a TCP load balancer, the real HAProxy, by the PROXY protocol."""

import http.client
import json
import ssl
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from offline.images import BASE, build_base, exists
from tests.stack.echo import Echo
from tests.stack.stacks import free_ports, run, wait_until

IMAGE = "stack-offline/haproxy:forky"
DOCKERFILE = f"""
FROM {BASE}
RUN ["apt-get", "update", "-qq"]
RUN ["apt-get", "install", "-qq", "--yes", "--no-install-recommends", "haproxy"]
"""
# Both versions of the protocol.
CONFIGURATION = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen https
    bind 127.0.0.1:{0}
    server traefik 127.0.0.1:{1} send-proxy-v2
listen http
    bind 127.0.0.1:{2}
    server traefik 127.0.0.1:{3} send-proxy
"""
# Clients of the balancer's: this machine has all addresses of 127.0.0.0/8. The last stands for a CDN before it.
ONE, ANOTHER, FLOODING, CDN = "127.0.0.77", "127.0.0.78", "127.0.0.79", "127.0.0.80"


@pytest.fixture(scope="module")
def balancer(echo: Echo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """Its ports, of HTTPS and of HTTP."""
    if not exists(BASE):
        build_base()
    run("docker", "build", "--quiet", "--tag", IMAGE, "-", input=DOCKERFILE)
    ports, file, name = free_ports(2), tmp_path_factory.mktemp("haproxy") / "cfg", f"{echo.project}-haproxy"
    file.write_text(CONFIGURATION.format(ports[0], echo.https_port, ports[1], echo.http_port))
    file.chmod(0o644)
    program = (IMAGE, "haproxy", "-db", "-f", "/haproxy.cfg")
    run("docker", "rm", "--force", name, check=False)
    run(
        "docker",
        "run",
        "--detach",
        "--name",
        name,
        "--network",
        "host",
        "--volume",
        f"{file}:/haproxy.cfg:ro",
        *program,
    )
    try:
        yield ports[0], ports[1]
    finally:
        run("docker", "rm", "--force", name)
        echo.recreate("traefik", "app-1", "app-2")


def ask(port: int, source: str, **headers: str) -> tuple[int, Any]:
    """The answer's status, and what the app saw."""
    context = ssl._create_unverified_context()  # noqa: S323 - self-signed
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context, source_address=(source, 0))
    try:
        connection.request("GET", "/", headers=headers)
        answer = connection.getresponse()
        said = answer.read()
        return answer.status, json.loads(said) if answer.status == 200 else None
    finally:
        connection.close()


def client(port: int, source: str, **headers: str) -> str:
    status, saw = ask(port, source, **headers)
    assert (status, saw["scheme"]) == (200, "https")
    return str(saw["client"])


def test_client_behind_a_balancer(echo: Echo, balancer: tuple[int, int]) -> None:
    """The app, the limits and TRUSTED_PROXIES go by the client that the balancer names; /health answers its check."""
    https, plain = balancer
    own = f"{echo.gateway()}/32"
    proxies = {"PROXY_PROTOCOL": own, "TRUSTED_PROXIES": f"{own},{CDN}"}
    echo.recreate("traefik", "app-1", "app-2", RATE_LIMIT="5", **proxies)
    assert [client(https, one) for one in (ONE, ANOTHER)] == [ONE, ANOTHER]
    forged = {"X-Forwarded-For": "198.51.100.7"}
    assert client(https, ONE, **forged) == ONE
    assert client(https, CDN, **forged) == "198.51.100.7"
    assert 429 in [ask(https, FLOODING)[0] for _ in range(40)]
    assert client(https, ANOTHER) == ANOTHER
    moved = httpx2.get(f"http://127.0.0.1:{plain}/health")
    # The port of HTTPS_PORT is the balancer's to reach, not the client's.
    assert (moved.status_code in (301, 308), moved.headers["Location"]) == (True, "https://127.0.0.1/health")
    # As it comes from the balancer itself, with no header before it.
    assert httpx2.get(f"http://127.0.0.1:{echo.http_port}/health").status_code == 200


def test_header_of_anybody_else_is_thrown_away(echo: Echo, balancer: tuple[int, int]) -> None:
    """Who is not named in PROXY_PROTOCOL is the client, whatever header comes first."""
    echo.recreate("traefik", "app-1", "app-2", PROXY_PROTOCOL="192.0.2.0/24")
    wait_until(lambda: ask(balancer[0], ONE)[0] == 200)
    assert client(balancer[0], ONE) == echo.gateway()
