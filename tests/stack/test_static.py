"""A folder of the app's image, from the file server: a single-page app beside its API, and files below a path."""

import contextlib
import ipaddress
import os
import signal
import ssl
from collections.abc import Iterator

import pytest
from websockets.sync.client import connect

from ops.door.ask import ToThisMachine
from tests.stack.backups import ok
from tests.stack.beside import brought_up
from tests.stack.load import Load, untrusting
from tests.stack.spa import ASSET, Spa, Tab, exact
from tests.stack.stacks import inspect, run, wait_until
from tests.stack.test_containers import status

IMMUTABLE = "public, max-age=31536000, immutable"
# It imports, and can't be started.
BROKEN = """
async def lifespan(_app):
    raise SystemExit("no such front")
    yield


app.router.lifespan_context = lifespan
"""


@pytest.fixture(scope="module")
def spa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spa]:
    with brought_up(Spa(tmp_path_factory.mktemp("static") / "stack")) as made:
        yield made


def test_page_and_api(spa: Spa) -> None:
    """The page from the file server, `/api` and `/health` from the app, probes from nobody."""
    assert spa.shown() == spa.release()
    assert spa.get("/api/release").json() == {"release": spa.release()}
    assert spa.get("/health").json()["database"] == "ok"
    assert [spa.get(path).status_code for path in ("/live", "/ready", "/api/none")] == [404] * 3
    address = spa.address.replace("https:", "wss:")
    context = ssl._create_unverified_context()  # noqa: S323
    with connect(f"{address}/api/echo", ssl=context) as socket:
        socket.send("here")
        assert socket.recv() == "here"
    assert "Nothing changed" in ok(spa.stack("up"))


def test_fallback_is_for_pages(spa: Spa) -> None:
    """An address of the single-page app is its page. A file that isn't there is 404, and so is another method."""
    page = spa.get("/").text
    for path in ("/things/5", "/v1.2/things", "/assets/", "/index.html"):
        assert spa.get(path).text == page
    for path in ("/assets/index-AAAAAAA1.js", "/missing.png", "/things/x.html"):
        missing = spa.get(path, Accept="text/html")
        assert (missing.status_code, missing.headers["Cache-Control"]) == (404, "no-cache")
        assert "<" not in missing.text
    with spa.client() as client:
        assert client.post("/things/5", json={}).status_code == 405


def test_headers(spa: Spa) -> None:
    """A name with a hash is kept for a year, a page is asked for again, and both have the headers of a careful app."""
    page = spa.get("/")
    assert page.headers["Cache-Control"] == "no-cache"
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["X-Frame-Options"] == "DENY"
    assert "Server" not in page.headers
    assert "Last-Modified" not in page.headers
    assert spa.get("/", If_None_Match=page.headers["ETag"]).status_code == 304
    assert spa.get("/robots.txt").headers["Cache-Control"] == "no-cache"
    for path in ASSET.findall(page.text):
        answer = spa.get(path)
        assert answer.headers["Cache-Control"] == IMMUTABLE
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_compression_and_ranges(spa: Spa) -> None:
    """Text is compressed for who takes it, and a part of a file can be had."""
    [style] = [path for path in ASSET.findall(spa.get("/").text) if path.endswith(".css")]
    whole = spa.get(style, Accept_Encoding="identity")
    packed = spa.get(style, Accept_Encoding="gzip")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in packed.headers["Vary"]
    assert packed.content == whole.content
    part = spa.get(style, Accept_Encoding="identity", Range="bytes=5-9")
    assert (part.status_code, part.content) == (206, whole.content[5:10])


@pytest.mark.parametrize(
    "path",
    [
        "/.env",
        "/.git/config",
        "/passwd",
        "/etc/passwd",
        "/../../../../etc/passwd",
        "/assets/../../../../../../etc/passwd",
        "/..%2f..%2f..%2fetc%2fpasswd",
        "/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/index.html%00.js",
        "/..\\..\\etc\\passwd",
        "/..%5c..%5cetc%5cpasswd",
        "/../page/index.html/../../../.lock",
        "/sets/",
        "/0/page/index.html",
        "/0/fallback.html",
    ],
)
def test_tricks_give_nothing_away(spa: Spa, path: str) -> None:
    """No dotfile, no link out of the folder, nothing beside it: 404, refused, or the page, of a path without a dot."""
    code, body = exact(spa, path)
    assert b"SECRET" not in body
    assert b"root:" not in body
    page = spa.get("/").content
    assert code in (400, 404) or (code == 200 and body == page and "." not in path.rpartition("/")[2])


def test_server_is_closed(spa: Spa) -> None:
    """No root, no capability, nothing to write to, in 64 MB; what brings the files has no network and has ended."""
    server, files = spa.containers()["static"], spa.containers()["static-files"]
    assert server["HostConfig"]["ReadonlyRootfs"]
    assert server["HostConfig"]["CapDrop"] == ["ALL"]
    assert [mount["RW"] for mount in server["Mounts"]] == [False]
    for line in run("docker", "top", spa.container("static"), "-o", "pid").split()[1:]:
        word = status(int(line))
        assert "0" not in word["Uid"].split()
        assert {int(word[f"Cap{kind}"], 16) for kind in ("Prm", "Eff", "Bnd")} == {0}
    assert list(files["NetworkSettings"]["Networks"]) == ["none"]
    assert files["State"]["ExitCode"] == 0
    print(run("docker", "stats", "--no-stream", "--format", "{{.MemUsage}}", spa.container("static")))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_deploys_break_no_open_page(spa: Spa) -> None:
    """Releases with other hashes under load, one of them broken, and a way back: every file of every page is found."""
    main = spa.app / "web/main.py"
    first = spa.release()
    with Tab(spa.address) as tab, Load(spa.address, paths=("/api/things", "/")) as load:
        wait_until(lambda: tab.fetched > 20)
        spa.commit()
        ok(spa.stack("deploy"))
        second = spa.release()
        assert spa.shown() == second
        text = main.read_text()
        main.write_text(text + BROKEN)
        spa.commit()
        broken = spa.stack("deploy")
        main.write_text(text)
        assert broken.returncode == 1
        assert spa.shown() == second
        assert spa.get("/api/release").json() == {"release": second}
        ok(spa.stack("rollback"))
        assert spa.shown() == first
        spa.commit()
        ok(spa.stack("deploy"))
        assert spa.shown() == spa.release()
    print(load.report(), f"{tab.fetched} files and pages", sep="\n")
    assert tab.failed == []
    assert load.failed == []
    sets = run("docker", "exec", spa.container("static"), "ls", "/srv/static/sets").split()
    assert len(sets) == 3


def test_folder_that_is_not_there(spa: Spa) -> None:
    """Refused with a sentence, before a slot or a page is touched."""
    before = spa.shown(), spa.container("app-1")
    spa.set(STATIC_DIR="/srv/spa/build")
    spa.commit()
    done = spa.stack("deploy")
    spa.set(STATIC_DIR="/srv/spa/dist")
    assert done.returncode == 2
    assert "STATIC_DIR=/srv/spa/build is wrong: the app's image has no such folder." in done.stderr
    assert (spa.shown(), spa.container("app-1")) == before


def test_server_that_is_away(spa: Spa) -> None:
    """Without it the app answers all the same, pages are 503 with Retry-After. Killed, it comes back by itself."""
    with Load(spa.address, paths=("/api/things", "/health")) as load:
        os.kill(inspect(spa.container("static"))["State"]["Pid"], signal.SIGKILL)
        wait_until(lambda: inspect(spa.container("static"))["RestartCount"] == 1)
        wait_until(lambda: spa.get("/").status_code == 200)
        spa.compose("stop", "static")
        wait_until(lambda: spa.get("/").status_code == 503)
        assert spa.get("/").headers["Retry-After"] == "10"
        spa.compose("start", "static")
        wait_until(lambda: spa.get("/").status_code == 200)
    assert load.failed == []


def test_limits_and_domain(spa: Spa) -> None:
    """A client is held to its rate, whoever it is that a proxy names; with a domain the page is there alone."""
    here = f"{spa.settings['EDGE_SUBNET']},{spa.settings['EDGE_SUBNET_IPV6']}"
    spa.set(TRUSTED_PROXIES=here, RATE_LIMIT="1")
    spa.compose("up", "--detach", "--wait", "traefik")
    wait_until(lambda: spa.get("/", X_Forwarded_For="198.51.100.1").status_code == 200)
    several = [spa.get("/", X_Forwarded_For="198.51.100.2").status_code for _ in range(8)]
    assert (several[0], 429 in several) == (200, True)
    assert spa.get("/", X_Forwarded_For="198.51.100.3").status_code == 200
    spa.set(TRUSTED_PROXIES="", RATE_LIMIT="", DOMAIN="static.test", ACME_CA="https://127.0.0.1:1/")
    spa.compose("up", "--detach", "--wait", "traefik")
    wait_until(lambda: asked(spa, "static.test") == 200)
    with pytest.raises(ssl.SSLError):
        asked(spa, "other.test")
    spa.set(DOMAIN="", ACME_CA="")
    spa.compose("up", "--detach", "--wait", "traefik")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give Traefik a file")
def test_guards_hold_for_files(spa: Spa) -> None:
    """A password, and maintenance, stand before the files as before the app. Who is let in gets the files."""
    users, file = spa.folder / "traefik/dynamic/users", "/robots.txt"
    api = spa.get("/api/release").json()
    whole, gateway = spa.get(file).text, str(next(ipaddress.ip_network(spa.settings["EDGE_SUBNET"]).hosts()))
    spa.set(BASIC_AUTH_FILE="users")
    # Before there are users nobody comes in.
    users.touch(0o400)
    os.chown(users, 10010, 10010)
    try:
        spa.compose("up", "--detach", "--wait", "traefik")
        wait_until(lambda: spa.get("/health").status_code == 200)
        assert {spa.get(path).status_code for path in ("/", file, "/api/release")} == {404}
        users.write_text(f"alice:{run('openssl', 'passwd', '-apr1', 'a secret').strip()}\n")
        wait_until(lambda: spa.get(file).status_code == 401)
        assert {spa.get(path).status_code for path in ("/", "/api/release")} == {401}
        with spa.client(auth=("alice", "a secret")) as client:
            assert client.get(file).text == whole
            assert client.get("/api/release").json() == api
        ok(spa.stack("maintenance", "on"))
        assert {spa.get(path).status_code for path in ("/", file, "/api/release")} == {503}
        ok(spa.stack("maintenance", "on", "--allow", gateway))
        assert spa.get(file).status_code == 401
        with spa.client(auth=("alice", "a secret")) as client:
            assert client.get(file).text == whole
        ok(spa.stack("maintenance", "off"))
    finally:
        users.unlink(missing_ok=True)
        spa.set(BASIC_AUTH_FILE="")
        spa.compose("up", "--detach", "--wait", "traefik")
        wait_until(lambda: spa.get(file).status_code == 200)


def asked(spa: Spa, domain: str) -> int:
    """What that name's page is answered."""
    connection = ToThisMachine(domain, spa.https_port, untrusting())
    with contextlib.closing(connection):
        connection.request("GET", "/robots.txt")
        return connection.getresponse().status


def test_plain_compose_brings_it_up(spa: Spa) -> None:
    """`docker compose up` alone, from nothing but the images; the files are those of the release."""
    before = spa.shown()
    spa.compose("down")
    run("docker", "volume", "rm", f"{spa.project}_static")
    spa.compose("up", "--detach", "--wait")
    wait_until(lambda: spa.get("/").status_code == 200)
    assert spa.shown() == before


def test_files_below_a_path(spa: Spa) -> None:
    """STATIC_PATH: the folder is there, and everything else is the app's."""
    spa.set(STATIC_PATH="/front", STATIC_FALLBACK="none")
    ok(spa.stack("up"))
    assert spa.get("/pages/here").json() == {"page": "here"}
    assert spa.get("/").json() == {"detail": "Not Found"}
    assert "<title>" in spa.get("/front/").text
    assert spa.get("/front/robots.txt").status_code == 200
    assert spa.get("/front/things/5").text == "404 page not found\n"
    assert spa.get("/frontier").json() == {"detail": "Not Found"}


def test_off_leaves_nothing(spa: Spa) -> None:
    """Without STATIC_DIR there is no container of it, and every path is the app's."""
    before = {name: one["Id"] for name, one in spa.containers().items()}
    spa.set(STATIC_DIR="", STATIC_PATH="", STATIC_FALLBACK="")
    spa.commit()
    ok(spa.stack("deploy"))
    # Traefik still has the setting, and would have nobody to ask.
    after = spa.containers()
    assert {after[name]["Id"] == before[name] for name in ("static", "traefik")} == {True}
    assert spa.get("/front/robots.txt").status_code == 200
    ok(spa.stack("up"))
    assert not {"static", "static-files"} & set(spa.containers())
    assert spa.get("/pages/here").json() == {"page": "here"}
    assert spa.get("/robots.txt").json() == {"detail": "Not Found"}
    spa.compose("up", "--detach", "--wait")
    assert not {"static", "static-files"} & set(spa.containers())
