"""Each proxy of deploy/ before two instances of the app's image: addresses, limits, and a restart under load."""

import contextlib
import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from websockets.sync.client import connect

from tests.conftest import REPO
from tests.deploy import proxies
from tests.deploy.proxies import PROGRAMS, Instances, Proxy
from tests.stack.load import Load, untrusting
from tests.stack.stacks import run, wait_until

pytestmark = [pytest.mark.docker, pytest.mark.long]

CLIENT, FORGED = "127.0.0.77", "198.51.100.66"
# Those that traefik/dynamic/ lets nobody send, and those that Traefik replaces.
VOUCHED = re.findall(
    r"[\w-]+", " ".join(re.findall(r'^  "(.+)"', (REPO / "traefik/dynamic/headers.yaml").read_text(), re.M))
)
REPLACED = (
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Server",
    "X-Real-Ip",
)
LOOK_ALIKE = ("X_Forwarded_For", "X.Real.Ip", "Remote_User")


@pytest.fixture(scope="module")
def instances(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instances]:
    instances = Instances(tmp_path_factory.mktemp("proxies"))
    instances.remove()
    proxies.build()
    try:
        instances.compose("up", "--detach", "--wait")
        yield instances
    finally:
        instances.remove()


@pytest.fixture(scope="module", params=PROGRAMS)
def proxy(
    request: pytest.FixtureRequest, instances: Instances, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp(request.param)
    with proxies.running(request.param, proxies.named(request.param), folder, instances.ports) as proxy:
        wait_until(proxy.answers)
        yield proxy


def test_without_traefik(instances: Instances) -> None:
    """The stack's own Compose brings up all but Traefik, and the instances' ports are this machine's alone."""
    found = instances.containers()
    assert {name for name, one in found.items() if one["State"]["Running"]} == {"app-1", "app-2", "postgres", "backup"}
    published = [
        one["HostIp"]
        for name in ("app-1", "app-2")
        for ports in found[name]["NetworkSettings"]["Ports"].values()
        for one in ports
    ]
    assert published == ["127.0.0.1"] * 4


def test_the_program_takes_the_file(proxy: Proxy) -> None:
    """Its own check of the file has nothing to say."""
    run("docker", "exec", proxy.container, *PROGRAMS[proxy.program].check)


def test_https(proxy: Proxy) -> None:
    """HTTP/1.1 and HTTP/2, plain HTTP redirected, for the site's own name alone."""
    with httpx2.Client(verify=False, http2=True) as client:
        answer = client.get(f"{proxy.address}/items/5?q=somequery")
        assert (answer.http_version, answer.json()) == ("HTTP/2", {"item_id": 5, "q": "somequery"})
        assert answer.headers["Strict-Transport-Security"] == "max-age=63072000"
        redirect = client.get(f"http://localhost:{proxy.http}/items/5?q=1")
        assert redirect.status_code in (301, 308)
        assert re.fullmatch(r"https://localhost(:\d+)?/items/5\?q=1", redirect.headers["Location"])
    assert proxy.ask()[:1] == (200,)


@pytest.mark.parametrize("path", ["/live", "/ready", "/%72eady", "/ready?x=1"])
def test_probes_are_not_served(proxy: Proxy, path: str) -> None:
    """However they are spelled; /health is."""
    status, _, text = proxy.ask(path)
    assert status == 404, text
    assert proxy.ask("/health")[0] == 200


def test_client(proxy: Proxy) -> None:
    """The app sees who connected, by HTTPS, and nothing of what a request says of itself or of who is signed in."""
    forged = dict.fromkeys((*VOUCHED, *REPLACED, *LOOK_ALIKE), FORGED)
    assert len(forged) > 80
    told_twice, dropped = {"X-Forwarded-For": f"{FORGED}, 127.0.0.1"}, {"Connection": "X-Forwarded-For, X-Real-Ip"}
    unmarked = forged | {"Connection": "X-From-Outside", "X-From-Outside": ""}
    for headers in ({}, forged, told_twice, dropped, unmarked):
        passing = {"X-Mine": "passes", "X-Auth-Token": "passes"}
        saw = json.loads(proxy.ask("/seen", source=CLIENT, headers=headers | passing)[2])
        assert (saw["client"], saw["scheme"]) == (CLIENT, "https")
        told = {name: value for name, value in saw["headers"] if name.startswith("x-forwarded-") or name == "x-real-ip"}
        assert told.pop("x-forwarded-host").partition(":")[0] == "localhost"
        assert told == {"x-forwarded-for": CLIENT, "x-forwarded-proto": "https", "x-real-ip": CLIENT}
        assert FORGED not in json.dumps(saw["headers"])
        assert [value for name, value in saw["headers"] if value == "passes"] == ["passes"] * 2


def test_body(proxy: Proxy) -> None:
    """One over the limit is 413 at once; one below reaches the app."""
    context = untrusting()
    connection = http.client.HTTPSConnection("localhost", proxy.https, timeout=1, context=context)
    connection.putrequest("POST", "/notes")
    connection.putheader("Content-Length", "10000001")
    connection.endheaders()
    # Caddy answers when a part of the body has arrived.
    for _ in range(100):
        with contextlib.suppress(TimeoutError):
            assert connection.getresponse().status == 413
            break
        connection.send(b"x" * 100_000)
    else:
        pytest.fail("no answer")
    connection.close()
    assert proxy.ask("/notes", "POST", body=b"x" * 9_000_000, headers={"Content-Type": "text/plain"})[0] == 422


def test_websocket(proxy: Proxy) -> None:
    """It passes, both ways."""
    with connect(f"wss://localhost:{proxy.https}/echo", ssl=untrusting()) as socket:
        for said in ("one", "another"):
            socket.send(said)
            assert socket.recv(10) == said


def restart(instances: Instances, proxy: Proxy, name: str) -> None:
    """As docs/proxies.md has it."""
    mark = proxy.folder / f"run/{name}.leaving"
    if proxy.program == "nginx":
        mark.touch()
    instances.compose("up", "--detach", "--wait", "--no-deps", "--force-recreate", name)
    mark.unlink(missing_ok=True)


def test_rolling_restart(instances: Instances, proxy: Proxy) -> None:
    """A build, a migration, and one restarted after the other, under load: nothing fails, is lost or doubled."""
    before = instances.containers()
    with Load(proxy.address, rate=60) as load:
        wait_until(lambda: len(load.samples) > 60)
        instances.compose("build", "--quiet")
        instances.compose("run", "--rm", "migrate")
        for name in ("app-1", "app-2"):
            restart(instances, proxy, name)
    after = instances.containers()
    assert all(before[name]["Id"] != after[name]["Id"] for name in ("app-1", "app-2"))
    print(f"{proxy.program}: {len(load.samples)} sent, {len(load.failed)} failed. {load.report()}")
    assert not load.failed, load.failed
    assert load.lost_or_doubled() == []


def test_nobody_serves(instances: Instances, proxy: Proxy) -> None:
    """503, and when to ask again; with one of them back it serves."""
    instances.compose("stop", "app-1", "app-2")
    wait_until(lambda: proxy.ask()[0] == 503, 10)
    status, headers, _ = proxy.ask("/notes", "POST", body=b"{}")
    assert (status, headers["Retry-After"]) == (503, "10")
    instances.compose("up", "--detach", "--wait", "--no-deps", "app-1")
    wait_until(proxy.answers, 10)
    instances.compose("up", "--detach", "--wait", "--no-deps", "app-2")


class Breaking:
    """Two instances that are ready, take each request, and end the connection without an answer."""

    def __init__(self) -> None:
        self.took: list[bytes] = []
        self.doors = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
        self.ports = [str(door.getsockname()[1]) for door in self.doors]
        for number, door in enumerate(self.doors):
            threading.Thread(target=self.serve, args=(door, number > 1), daemon=True).start()

    def serve(self, door: socket.socket, probes: bool) -> None:
        while True:
            try:
                connection, _ = door.accept()
            except OSError:
                return
            with connection:
                request = connection.recv(65536)
                if probes:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                elif request:
                    self.took.append(request)

    def close(self) -> None:
        for door in self.doors:
            door.shutdown(socket.SHUT_RDWR)
            door.close()


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_was_sent_is_not_sent_again(program: str, tmp_path: Path) -> None:
    """A POST whose answer never came is 502, no 503 that invites to repeat it, and reached one instance, once."""
    proxies.build()
    breaking = Breaking()
    try:
        with proxies.running(program, proxies.named(program, "again"), tmp_path, breaking.ports) as proxy:
            # Caddy's first probe, as it starts, finds nobody.
            wait_until(lambda: proxy.status("/") == 502)
            breaking.took.clear()
            assert proxy.ask("/notes", "POST", body=b"{}")[0] == 502
            assert len(breaking.took) == 1
    finally:
        breaking.close()
