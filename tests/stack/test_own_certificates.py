"""Certificates by file, beside those of a real ACME server; and the CDN's that clients must show."""

import contextlib
import http.client
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.door.own import GROUP, shown
from tests.certificates import Pair, pair
from tests.stack.acme import Secured
from tests.stack.backups import ok
from tests.stack.echo import everything
from tests.stack.stacks import inspect, run, wait_until


class ByFile(Secured):
    name = "own-certificates"

    def put(self, certificate: bytes, key: bytes) -> None:
        """As a careful administrator leaves them."""
        for ending, content in (("crt", certificate), ("key", key)):
            path = self.folder / f"certificates/app.test.{ending}"
            path.unlink(missing_ok=True)
            path.touch(0o600)
            path.write_bytes(content)

    def serves(self, certificate: bytes) -> bool:
        return shown("app.test", self.https_port) == ssl.PEM_cert_to_DER_cert(certificate.decode())

    def set(self, **settings: str) -> None:
        """Other settings, in .env."""
        kept = [line for line in self.env_file.read_text().splitlines() if line.partition("=")[0] not in settings]
        self.env_file.write_text("\n".join([*kept, *(f"{name}={value}" for name, value in settings.items()), ""]))

    def answer(self, name: str | None, showing: Path | None, path: str = "/health") -> str:
        """The first line that a client gets who shows this, by TLS 1.3 as by 1.2; "" where there is no handshake."""
        found = set()
        for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
            context = self.context(trusting=False)
            context.maximum_version = version
            if showing:
                context.load_cert_chain(showing)
            request = f"GET {path} HTTP/1.1\r\nHost: {name or '127.0.0.1'}\r\nConnection: close\r\n\r\n"
            try:
                with (
                    socket.create_connection(("127.0.0.1", self.https_port), 10) as plain,
                    context.wrap_socket(plain, server_hostname=name) as secure,
                ):
                    secure.sendall(request.encode())
                    found.add(everything(secure).partition(b"\r\n")[0].decode())
            except (ssl.SSLError, ConnectionError):
                found.add("")
        return found.pop() if len(found) == 1 else "one of the two"

    def by_http(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().status

    def check(self) -> str:
        """What Traefik's own check says, which runs every 30 s."""
        return run("docker", "exec", self.container("traefik"), "healthy", check=False)


@pytest.fixture(scope="module")
def by_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ByFile]:
    names = {"DOMAIN": "app.test,www.app.test", "OWN_CERTIFICATES": "app.test"}
    clone = ByFile(tmp_path_factory.mktemp("own"), DRAIN_SECONDS="0", **names)
    with clone.with_authority():
        yield clone


def test_certificate_by_file(by_file: ByFile) -> None:
    """It is served, the authority is asked for the other name alone, and nobody else can read the key.

    What the store had for the name goes: Traefik would take either.
    """
    done = by_file.trusting_up(OWN_CERTIFICATES="")
    assert done.returncode == 0, done.stderr
    assert (set(by_file.store()), by_file.issued()) == ({"app.test", "www.app.test"}, 2)
    certificate, key = pair("app.test")
    by_file.put(certificate, key)
    done = by_file.trusting_up()
    assert done.returncode == 0, done.stderr
    assert "The certificate of app.test is certificates/app.test.crt, and lasts for 90 days." in done.stderr
    assert "The certificate of www.app.test lasts for 90 days and renews itself." in done.stderr
    assert by_file.serves(certificate)
    assert set(by_file.store()) == {"www.app.test"}
    assert by_file.issued() == 2
    found = (by_file.folder / "certificates/app.test.key").stat()
    assert (found.st_mode & 0o777, found.st_gid) == (0o640, GROUP)


def test_newer_file_is_live_without_a_restart(by_file: ByFile) -> None:
    """Traefik's check has it read, or `./stack up` at once, which lets Traefik read a file that only root may."""
    started = inspect(by_file.container("traefik"))["State"]["StartedAt"]
    certificate, key = pair("app.test", ends=20)
    for ending, content in (("crt", certificate), ("key", key)):
        (by_file.folder / f"certificates/app.test.{ending}").write_bytes(content)
    wait_until(lambda: by_file.check() == "" and by_file.serves(certificate))
    by_file.put(*(newest := pair("app.test", ends=10, begins=-80)))
    assert "can't read ./certificates/app.test.crt: `./stack up` lets it." in by_file.check()
    done = by_file.trusting_up()
    assert done.returncode == 0, done.stderr
    assert "Warning: certificates/app.test.crt ends in 10 days." in done.stderr
    assert by_file.serves(newest[0])
    assert by_file.check() == ""
    assert inspect(by_file.container("traefik"))["State"]["StartedAt"] == started


def test_wrong_pair_changes_nothing(by_file: ByFile) -> None:
    """A key that does not fit is a sentence, and what was served is served on."""
    before = shown("app.test", by_file.https_port)
    by_file.put(pair("app.test")[0], pair("app.test")[1])
    done = by_file.trusting_up()
    assert done.returncode == 2
    assert "can't serve app.test: the key is another certificate's." in done.stderr
    assert shown("app.test", by_file.https_port) == before
    assert before


NAMES = ("app.test", "www.app.test", "other.test", "localhost", None)
SERVED = "HTTP/1.1 200 OK"
ELSEWHERE = """
import http.client
connection = http.client.HTTPConnection("traefik")
connection.request("GET", "/health")
print(connection.getresponse().status)
"""


@pytest.fixture(scope="module")
def cdn() -> Pair:
    return pair("CDN", authority=True)


@pytest.fixture(scope="module")
def showing(cdn: Pair, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Certificates of clients, with their keys in a file: of the CDN's authority, of another, and one that is over."""
    folder, other = tmp_path_factory.mktemp("clients"), pair("Another", authority=True)
    made = {"right": pair("cdn", by=cdn), "wrong": pair("cdn", by=other), "over": pair("cdn", by=cdn, ends=-1)}
    for name, both in made.items():
        (folder / name).write_bytes(b"".join(both))
    return {name: folder / name for name in made}


def shut(by_file: ByFile, showing: dict[str, Path]) -> bool:
    """Whether there is no handshake but for who shows the right certificate, whatever it asks for."""
    assert by_file.answer("app.test", showing["right"]) == SERVED
    others = (None, showing["wrong"], showing["over"])
    return {by_file.answer(name, other) for name in NAMES for other in others} == {""}


def test_nobody_but_the_cdn(by_file: ByFile, cdn: Pair, showing: dict[str, Path]) -> None:
    """Without the certificate, or with another one, there is no handshake; `./stack` asks by another way."""
    by_file.put(*pair("app.test"))
    by_file.set(CLIENT_CA="cdn.pem")
    done = by_file.trusting_up()
    assert (done.returncode, "there is no certificates/cdn.pem: put it there." in done.stderr) == (2, True)
    authority = by_file.folder / "certificates/cdn.pem"
    authority.write_bytes(cdn[0])
    authority.chmod(0o600)
    ok(by_file.trusting_up())
    assert shut(by_file, showing)
    assert by_file.answer("www.app.test", showing["right"], "/").startswith("HTTP/1.1 301 ")
    # Of the other name's certificate by the authority, which comes by port 80, nothing has changed.
    assert by_file.trusted("www.app.test")
    assert by_file.by_http("/health") == 200
    assert {by_file.by_http(path) for path in ("/", "/notes", "/health/")} == {301}
    # Who comes from elsewhere, another container for one, does not get even that.
    assert by_file.compose("exec", "-T", "app-1", "python", "-c", ELSEWHERE) == "301\n"
    assert "Nothing changed" in ok(by_file.trusting_up())


@pytest.mark.long
def test_verbs_behind_a_cdn(by_file: ByFile, cdn: Pair, showing: dict[str, Path]) -> None:
    """A deploy, a rollback, maintenance; with a wildcard, behind a balancer; a newer file; no file; and off again."""
    main = by_file.folder / "app/main.py"
    main.write_text(main.read_text() + "# Another release.\n")
    assert " serves, after " in ok(by_file.stack("deploy"))
    assert " serves again, after " in ok(by_file.stack("rollback"))
    ok(by_file.stack("maintenance", "on"))
    wait_until(lambda: by_file.answer("app.test", showing["right"], "/") == "HTTP/1.1 503 Service Unavailable")
    assert shut(by_file, showing)
    ok(by_file.stack("maintenance", "off"))
    assert by_file.answer("app.test", showing["right"], "/") == SERVED
    gateway = by_file.settings["EDGE_SUBNET"]
    wildcard = {"DOMAIN": "app.test,*.app.test", "ACME_DNS": "exec"}
    for settings in (wildcard, {"TRUSTED_PROXIES": gateway}, {"DOMAIN": "localhost", "OWN_CERTIFICATES": ""}):
        by_file.recreate(**settings)
        wait_until(lambda: by_file.answer("app.test", showing["right"]) != "")
        assert shut(by_file, showing), settings
    by_file.recreate()
    # What .env says by now is not yet what runs: the verbs get in by what runs.
    by_file.set(CLIENT_CA="")
    ok(by_file.stack("maintenance", "on"))
    ok(by_file.stack("maintenance", "off"))
    by_file.set(CLIENT_CA="cdn.pem")
    # A newer file is live within a check or two, and what the one before let in stays out.
    newer = pair("CDN", authority=True)
    (by_file.folder / "certificates/cdn.pem").write_bytes(newer[0])
    wait_until(lambda: by_file.check() == "" and by_file.answer("app.test", showing["right"]) == "")
    (by_file.folder / "certificates/cdn.pem").write_bytes(cdn[0])
    wait_until(lambda: by_file.check() == "" and by_file.answer("app.test", showing["right"]) == SERVED)
    # Gone under plain Compose: nobody comes in, and the check says so; told at the next start.
    (by_file.folder / "certificates/cdn.pem").unlink()
    assert "Traefik can't read ./certificates/cdn.pem" in by_file.check()
    run("docker", "kill", "--signal", "HUP", by_file.container("traefik"))
    wait_until(lambda: by_file.answer("app.test", showing["right"]) == "")
    assert {by_file.answer(name, None) for name in NAMES} == {""}
    run("docker", "restart", "-t", "1", by_file.container("traefik"))
    said = "Traefik can't read ./certificates/cdn.pem, which CLIENT_CA names"
    wait_until(lambda: said in run("docker", "logs", by_file.container("traefik"), check=False))
    by_file.set(CLIENT_CA="")
    ok(by_file.trusting_up())
    assert by_file.answer("app.test", None) == SERVED
    assert by_file.by_http("/health") == 301
