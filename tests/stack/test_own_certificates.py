"""Certificates by file, beside those of a real ACME server."""

import ssl
from collections.abc import Iterator

import pytest

from ops.door.own import GROUP, shown
from tests.certificates import pair
from tests.stack.acme import Secured
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
